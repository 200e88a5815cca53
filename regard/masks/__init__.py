"""Who may look where: masks as expressions with an exact tile calculus."""

from regard.masks.bands import causal as causal
from regard.masks.bands import prefix as prefix
from regard.masks.bands import sinks as sinks
from regard.masks.bands import window as window
from regard.masks.base import Mask as Mask
from regard.masks.base import everything as everything
from regard.masks.plan import EMPTY as EMPTY
from regard.masks.plan import FULL as FULL
from regard.masks.plan import PARTIAL as PARTIAL
from regard.masks.plan import TilePlan as TilePlan
