"""Attention as small, correct, measured parts, usable on real pretrained models.

Importing this package runs nothing and needs torch and numpy alone.
"""

__version__ = "0.1.0"
