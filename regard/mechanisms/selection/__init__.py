"""Mixers that look at some of the keys: near ones, chosen ones, compressed ones."""

from regard.mechanisms.selection.sliding_window import SlidingWindow as SlidingWindow
