"""How heads are made from tokens, share what they have, and are put together again."""

from regard.mechanisms.heads.concat import Concat as Concat
from regard.mechanisms.heads.gqa import GQA as GQA
from regard.mechanisms.heads.mha import MHA as MHA
from regard.mechanisms.heads.mqa import MQA as MQA
