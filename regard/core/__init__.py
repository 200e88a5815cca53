"""What every part shares: what a part claims to be (Spec), where it comes from (Source), what it costs (Cost)."""

from regard.core.spec import Cost as Cost
from regard.core.spec import Limit as Limit
from regard.core.spec import Source as Source
from regard.core.spec import Spec as Spec
