"""Small reference models to train mechanisms in: everything but the attention layers is the same."""

from regard.backbones.decoder import DecoderLM as DecoderLM
