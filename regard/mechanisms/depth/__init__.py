"""Attention along the layers of a model, and layers that are passed more than once."""

from regard.mechanisms.depth.attention_residuals import AttentionResiduals as AttentionResiduals
from regard.mechanisms.depth.deep_delta import DeepDeltaResidual as DeepDeltaResidual
from regard.mechanisms.depth.depth_weights import StaticDepthWeights as StaticDepthWeights
from regard.mechanisms.depth.residual_duality import DepthSlidingWindow as DepthSlidingWindow
from regard.mechanisms.depth.short_swa import ShortSlidingWindow as ShortSlidingWindow
from regard.mechanisms.depth.think_at_hard import ThinkAtHard as ThinkAtHard
