"""The attention layer with four slots, and mechanisms by name."""

from regard.layers.attention import Attention as Attention
from regard.layers.create import create as create
