"""Packaged data files: prompts and mapping rules."""
