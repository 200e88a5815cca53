"""Measurements side by side: every figure is a ratio of medians from one run."""
