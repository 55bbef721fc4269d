"""Phantom chests: drawn frontal radiographs with findings, reports, RadGraph graphs and ground truth."""
