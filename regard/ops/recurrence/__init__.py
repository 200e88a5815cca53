"""The one linear recurrence and its engines."""

from regard.ops.recurrence.choose import RECURRENCES as RECURRENCES
from regard.ops.recurrence.engine import Recurring as Recurring
from regard.ops.recurrence.front import explain_recur as explain_recur
from regard.ops.recurrence.front import recur as recur
from regard.ops.recurrence.problem import Memory as Memory
from regard.ops.recurrence.problem import Recurrence as Recurrence
from regard.ops.recurrence.scan import scan as scan
from regard.ops.recurrence.watch import Seen as Seen
from regard.ops.recurrence.watch import watched as watched
