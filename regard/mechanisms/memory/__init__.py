"""Attention that remembers more than the tokens it looks at."""

from regard.mechanisms.memory.landmark_attention import LandmarkAttention as LandmarkAttention
from regard.mechanisms.memory.pavlov import AssociativeMemory as AssociativeMemory
from regard.mechanisms.memory.rmat import RecurrentMemoryAttention as RecurrentMemoryAttention
from regard.mechanisms.memory.sha_rnn import SingleHeadedAttentionRNN as SingleHeadedAttentionRNN
from regard.mechanisms.memory.titans import Titans as Titans
