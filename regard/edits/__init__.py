"""What is done to scores: edits before the normaliser, and the normalisers themselves."""

from regard.edits.base import Edit as Edit
from regard.edits.biases import ALiBi as ALiBi
from regard.edits.biases import Bias as Bias
from regard.edits.biases import Emphasis as Emphasis
from regard.edits.curves import Softcap as Softcap
from regard.edits.curves import Temperature as Temperature
from regard.edits.given import Given as Given
from regard.edits.normalisers import Normaliser as Normaliser
from regard.edits.normalisers import Sigmoid as Sigmoid
from regard.edits.normalisers import Softmax as Softmax
from regard.edits.normalisers import SoftmaxOffByOne as SoftmaxOffByOne
from regard.edits.normalisers import SoftmaxWithSinks as SoftmaxWithSinks
from regard.edits.normalisers import softmax as softmax
