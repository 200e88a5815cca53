"""Small reference models to train mechanisms in: everything but the attention layers is the same."""

from regard.backbones.decoder import DecoderLM as DecoderLM
from regard.backbones.looped import LoopedLM as LoopedLM
from regard.backbones.recommender import MultiQueryRecommender as MultiQueryRecommender
from regard.backbones.residuals import ResidualLM as ResidualLM
from regard.backbones.speech import EfficientConformer as EfficientConformer
from regard.backbones.stack import stack as stack
