"""The conformance suite: every claim of a mechanism's spec, checked.

`regard.testing.check("softmax")` runs every check that the spec of a mechanism asks for; it takes a mechanism's id, its
class, or a layer, so that a mechanism outside of this package is held to the same.
"""

from regard.testing.operations import operations as operations
from regard.testing.run import ConformanceError as ConformanceError
from regard.testing.run import Outcome as Outcome
from regard.testing.run import check as check
from regard.testing.run import checks as checks
from regard.testing.run import run as run
from regard.testing.subject import Subject as Subject
from regard.testing.subject import subjects as subjects
