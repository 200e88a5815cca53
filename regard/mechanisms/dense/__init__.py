"""Mixers and layers that score every pair of tokens."""

from regard.mechanisms.dense.adaptive_filter_attention import AdaptiveFilterAttention as AdaptiveFilterAttention
from regard.mechanisms.dense.castle import CASTLE as CASTLE
from regard.mechanisms.dense.cog_attention import CogAttention as CogAttention
from regard.mechanisms.dense.deconstructed import Deconstructed as Deconstructed
from regard.mechanisms.dense.mta import MultiTokenAttention as MultiTokenAttention
from regard.mechanisms.dense.sigmoid import SigmoidAttention as SigmoidAttention
from regard.mechanisms.dense.softmax import Softmax as Softmax
from regard.mechanisms.dense.softmax_with_sinks import SoftmaxWithSinks as SoftmaxWithSinks
from regard.mechanisms.dense.structural_attention import StructuralAttention as StructuralAttention
