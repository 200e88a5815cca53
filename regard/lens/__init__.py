"""What attention looks at, only seen and never changed."""

from regard.lens.distances import attention_distance as attention_distance
from regard.lens.distances import attention_entropy as attention_entropy
from regard.lens.distances import pwcca as pwcca
from regard.lens.frequencies import FrequencyUsage as FrequencyUsage
from regard.lens.frequencies import MutePairs as MutePairs
from regard.lens.frequencies import PositionalHeads as PositionalHeads
from regard.lens.indicators import Indicators as Indicators
from regard.lens.indicators import concentration as concentration
from regard.lens.indicators import diversity as diversity
from regard.lens.indicators import entropy as entropy
from regard.lens.indicators import local_focus as local_focus
from regard.lens.indicators import sink as sink
from regard.lens.watch import Observer as Observer
from regard.lens.watch import watch as watch
