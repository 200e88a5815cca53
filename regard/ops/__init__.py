"""The operations everything stands on: attend, its engines, and the merging of partial attention."""

from regard.ops.attend import attend as attend
from regard.ops.attend import explain as explain
from regard.ops.engine import Engine as Engine
from regard.ops.fast_weights import FastWeights as FastWeights
from regard.ops.fast_weights import Writing as Writing
from regard.ops.fast_weights import fast_weights as fast_weights
from regard.ops.fast_weights import learn as learn
from regard.ops.problem import Problem as Problem
from regard.ops.problem import Rows as Rows
from regard.ops.problem import View as View
from regard.ops.recurrence import Memory as Memory
from regard.ops.recurrence import explain_recur as explain_recur
from regard.ops.recurrence import recur as recur
from regard.ops.recurrence import scan as scan
from regard.ops.rows import RowBlocks as RowBlocks
from regard.ops.state import State as State
from regard.ops.state import merge as merge
