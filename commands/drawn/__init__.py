"""Drawn data sets: parts of several kinds with exact masks, the same pixels for the same seed."""
