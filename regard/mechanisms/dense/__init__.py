"""Mixers and layers that score every pair of tokens."""

from regard.mechanisms.dense.softmax import Softmax as Softmax
