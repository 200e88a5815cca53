"""How heads are made from tokens, share what they have, and are put together again."""

from regard.mechanisms.heads.concat import Concat as Concat
from regard.mechanisms.heads.dual_attention import DualAttention as DualAttention
from regard.mechanisms.heads.efficient_slices import EfficientSlices as EfficientSlices
from regard.mechanisms.heads.gqa import GQA as GQA
from regard.mechanisms.heads.grouped_time_attention import GroupedAttention as GroupedAttention
from regard.mechanisms.heads.knocking_heads import KnockingHeads as KnockingHeads
from regard.mechanisms.heads.mha import MHA as MHA
from regard.mechanisms.heads.mhe import MultipleHeadEmbeddings as MultipleHeadEmbeddings
from regard.mechanisms.heads.mla import MLA as MLA
from regard.mechanisms.heads.moh import MoH as MoH
from regard.mechanisms.heads.mqa import MQA as MQA
from regard.mechanisms.heads.mqsa_ted import LQueryAttention as LQueryAttention
from regard.mechanisms.heads.mw_mha import MultiWindowAttention as MultiWindowAttention
from regard.mechanisms.heads.optimised_attention import OptimisedAttention as OptimisedAttention
from regard.mechanisms.heads.sdconv import SpanDynamicConvolution as SpanDynamicConvolution
from regard.mechanisms.heads.sqa import SQA as SQA
from regard.mechanisms.heads.super_attention import SuperAttention as SuperAttention
