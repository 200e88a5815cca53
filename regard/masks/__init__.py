"""Who may look where: masks as expressions with an exact tile calculus."""

from regard.masks.bands import causal as causal
from regard.masks.bands import chunks as chunks
from regard.masks.bands import dilated as dilated
from regard.masks.bands import prefix as prefix
from regard.masks.bands import sinks as sinks
from regard.masks.bands import strided as strided
from regard.masks.bands import window as window
from regard.masks.base import Mask as Mask
from regard.masks.base import everything as everything
from regard.masks.chosen import keys as keys
from regard.masks.heads import per_head as per_head
from regard.masks.neighbours import neighbourhood as neighbourhood
from regard.masks.opaque import predicate as predicate
from regard.masks.packed import documents as documents
from regard.masks.plan import EMPTY as EMPTY
from regard.masks.plan import FULL as FULL
from regard.masks.plan import PARTIAL as PARTIAL
from regard.masks.plan import TilePlan as TilePlan
from regard.masks.plan import cached_tiles as cached_tiles
from regard.masks.powers import power as power
from regard.masks.reach import Reach as Reach
from regard.masks.reach import receptive_field as receptive_field
from regard.masks.tile_map import blocks as blocks
