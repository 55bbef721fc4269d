"""The model, part by part, named as in the paper."""
