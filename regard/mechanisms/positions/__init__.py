"""How queries and keys are told where they are."""

from regard.mechanisms.positions.alibi import ALiBi as ALiBi
from regard.mechanisms.positions.cope import CoPE as CoPE
from regard.mechanisms.positions.cope_values import CoPEFromValues as CoPEFromValues
from regard.mechanisms.positions.fope import FoPE as FoPE
from regard.mechanisms.positions.harmonic import HarmonicPosition as HarmonicPosition
from regard.mechanisms.positions.learned import LearnedPosition as LearnedPosition
from regard.mechanisms.positions.md_lrpe import MDLRPE as MDLRPE
from regard.mechanisms.positions.none import NoPosition as NoPosition
from regard.mechanisms.positions.p_rope import PRoPE as PRoPE
from regard.mechanisms.positions.rcmha import RCMHA as RCMHA
from regard.mechanisms.positions.rope import RoPE as RoPE
from regard.mechanisms.positions.sinusoidal import SinusoidalPosition as SinusoidalPosition
from regard.mechanisms.positions.t5 import T5Bias as T5Bias
from regard.mechanisms.positions.tapa import TAPA as TAPA
