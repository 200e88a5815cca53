"""Attention in linear time: keys and values meet before the queries do."""

from regard.mechanisms.linear.agent_attention import AgentAttention as AgentAttention
from regard.mechanisms.linear.cat import CircularConvolutionalAttention as CircularConvolutionalAttention
from regard.mechanisms.linear.dsf import NormalisedAttention as NormalisedAttention
from regard.mechanisms.linear.efficient_attention import EfficientAttention as EfficientAttention
from regard.mechanisms.linear.fastmax import Fastmax as Fastmax
from regard.mechanisms.linear.flare import FastLowRankAttentionRoutingEngine as FastLowRankAttentionRoutingEngine
from regard.mechanisms.linear.gaam import AdaptiveGaussians as AdaptiveGaussians
from regard.mechanisms.linear.gaam import GaussianAdaptiveAttention as GaussianAdaptiveAttention
from regard.mechanisms.linear.gam import GatedAssociativeMemory as GatedAssociativeMemory
from regard.mechanisms.linear.l2vit import LinearGlobalAttention as LinearGlobalAttention
from regard.mechanisms.linear.l2vit import LinearGlobalBlock as LinearGlobalBlock
from regard.mechanisms.linear.l2vit import LocalConcentration as LocalConcentration
from regard.mechanisms.linear.l2vit import LocalWindowBlock as LocalWindowBlock
from regard.mechanisms.linear.latte import LatentAttention as LatentAttention
from regard.mechanisms.linear.lightnet import LightNet as LightNet
from regard.mechanisms.linear.lightning_attention import LightningAttention as LightningAttention
from regard.mechanisms.linear.lightning_attention2 import LightningAttention2 as LightningAttention2
from regard.mechanisms.linear.md_tpe import ToeplitzEncoding as ToeplitzEncoding
from regard.mechanisms.linear.rat import RecurrentAttention as RecurrentAttention
