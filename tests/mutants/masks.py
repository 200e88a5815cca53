"""Faults in masks, their tile calculus and the edits."""

from __future__ import annotations

from tests.mutants.fault import Fault

FAULTS = [
    Fault("regard/masks/distance.py", "j <= i - self.least", "j < i - self.least", "causal hides the query itself", ('tests/masks',)),
    Fault("regard/masks/distance.py", "near = j >= i - self.most", "near = j > i - self.most", "window one key short", ('tests/masks',)),
    Fault("regard/masks/distance.py", "return (least >= self.least) & (greatest <= self.most)", "return (least >= self.least - 1) & (greatest <= self.most)", "a band's least distance off by one in tiles", ('tests/masks',)),
    Fault("regard/masks/distance.py", "return (greatest >= self.least) & (least <= self.most)", "return (greatest >= self.least) & (least < self.most)", "a band's reach off by one in tiles", ('tests/masks',)),
    Fault("regard/masks/distance.py", "seen = j % self.step == i % self.step", "seen = j % self.step == 0", "stride by the query alone", ('tests/masks',)),
    Fault("regard/masks/bands.py", "return Strided(step, (window - 1) * step)", "return Strided(step, window * step)", "dilated window one key long", ('tests/masks',)),
    Fault("regard/masks/bands.py", "return Band(0, 0, size)", "return Band(0, 1, size)", "chunks of neighbouring chunks", ('tests/masks',)),
    Fault("regard/masks/bounds.py", "mixed = (self.mixed & other.must) | (self.must & other.mixed)", "mixed = (self.mixed & other.may) | (self.may & other.mixed)", "and forgets that a mixed tile may be whole elsewhere", ('tests/masks',)),
    Fault("regard/masks/bounds.py", "mixed = (self.mixed & ~other.may) | (~self.may & other.mixed)", "mixed = self.mixed | other.mixed", "or claims mixed too early", ('tests/masks',)),
    Fault("regard/masks/bounds.py", "return Bounds(~self.must, ~self.may, self.mixed)", "return Bounds(~self.may, ~self.must, self.mixed)", "not keeps may and must", ('tests/masks',)),
    Fault("regard/masks/base.py", "return self.a.at(b, h, i, j) & self.b.at(b, h, i, j)", "return self.a.at(b, h, i, j) | self.b.at(b, h, i, j)", "and becomes or", ('tests/masks',)),
    Fault("regard/masks/base.py", "return ~self.a.at(b, h, i, j)", "return self.a.at(b, h, i, j)", "not dropped", ('tests/masks',)),
    Fault("regard/masks/packed.py", "(i < T) & (j < T)", "(i < T)", "documents ignore which text it is", ('tests/masks',)),
    Fault("regard/masks/tile_map.py", "r, c = (i // self.rows).clamp(0, down), (j // self.cols).clamp(0, across)", "r, c = (j // self.rows).clamp(0, down), (i // self.cols).clamp(0, across)", "blocks read rows for columns", ('tests/masks',)),
    Fault("regard/masks/tile_map.py", "held == area", "held >= area - 1", "a block counted full when nearly full", ('tests/masks',)),
]  # fmt: skip
