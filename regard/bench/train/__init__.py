"""Mechanisms trained side by side in one small model: what each learns, how fast, and at what cost."""
