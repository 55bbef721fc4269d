"""Scores and figures: arrays in, numbers and pictures out."""
