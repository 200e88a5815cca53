"""Faults in masks and their tile calculus."""

from __future__ import annotations

from tests.mutants.fault import Fault

LEAVES = ("tests/masks/test_leaves.py",)
TILES = ("tests/masks/test_tiles.py",)
FORMS = LEAVES + TILES
M = "regard/masks/"

FAULTS = [
    Fault(M + "distance.py", "j <= i - self.least", "j < i - self.least", "causal hides the query itself", LEAVES),
    Fault(M + "distance.py", "None if self.least <= -FAR else j <= i - self.least", "None if self.least <= -FAR else j >= i - self.least", "causal looks ahead", LEAVES),
    Fault(M + "distance.py", "near = j >= i - self.most", "near = j > i - self.most", "a window is one key short", LEAVES),
    Fault(M + "distance.py", "return (least >= self.least) & (greatest <= self.most)", "return (least >= self.least - 1) & (greatest <= self.most)", "a band calls a tile full that is not", TILES),
    Fault(M + "distance.py", "return (greatest >= self.least) & (least <= self.most)", "return (greatest >= self.least) & (least < self.most)", "a band calls a tile empty that is not", TILES),
    Fault(M + "distance.py", "seen = j % self.step == i % self.step", "seen = j % self.step == 0", "a stride counts from the first key", LEAVES),
    Fault(M + "distance.py", "return distance % self.step if self.most is None else distance", "return distance * 0 if self.most is None else distance", "tiles of other phases share a pattern", TILES),
    Fault(M + "bands.py", "return Band(-ahead, size - 1)", "return Band(-ahead, size)", "window=w sees w + 1 keys", LEAVES),
    Fault(M + "bands.py", "return Band(-ahead, size - 1)", "return Band(0, size - 1)", "a window does not look ahead", LEAVES),
    Fault(M + "bands.py", "torch.broadcast_tensors(j < self.stop, i)", "torch.broadcast_tensors(j <= self.stop, i)", "there is one sink too many", LEAVES),
    Fault(M + "bands.py", "first < self.stop, last < self.stop", "first < self.stop, last <= self.stop", "a tile one key past the sinks is full", TILES),
    Fault(M + "bands.py", "return Strided(step, (window - 1) * step)", "return Strided(step, window * step)", "a dilated window is one key long", LEAVES),
    Fault(M + "bands.py", "return Band(0, 0, size)", "return Band(0, 1, size)", "a chunk sees the chunk before it", LEAVES),
    Fault(M + "bounds.py", "mixed = (self.mixed & other.must) | (self.must & other.mixed)", "mixed = (self.mixed & other.may) | (self.may & other.mixed)", "two mixed tiles are taken for a mixed one", TILES),
    Fault(M + "bounds.py", "mixed = (self.mixed & ~other.may) | (~self.may & other.mixed)", "mixed = self.mixed | other.mixed", "a mixed tile stays mixed beside a full one", TILES),
    Fault(M + "bounds.py", "return Bounds(self.may & other.may, self.must & other.must, mixed)", "return Bounds(self.may & other.may, self.must | other.must, mixed)", "full in one mask is full in both", TILES),
    Fault(M + "bounds.py", "return Bounds(~self.must, ~self.may, self.mixed)", "return Bounds(~self.may, ~self.must, self.mixed)", "a negated tile may be what it must not", TILES),
    Fault(M + "base.py", "return self.a.at(b, h, i, j) & self.b.at(b, h, i, j)", "return self.a.at(b, h, i, j) | self.b.at(b, h, i, j)", "and means or", LEAVES),
    Fault(M + "base.py", "return ~self.a.at(b, h, i, j)", "return self.a.at(b, h, i, j)", "not is dropped", LEAVES),
    Fault(M + "plan.py", "may, full = known.may & present.may, known.must & present.must", "may, full = known.may & present.may, known.must", "a tile with empty slots is full", FORMS),
    Fault(M + "plan.py", "status = may.view(np.int8) + full.view(np.int8)", "status = 2 * may.view(np.int8)", "partial tiles are full", FORMS),
    Fault(M + "plan.py", "cols = np.minimum(grid.M - tiles[:, 3] * grid.cols, grid.cols)", "cols = grid.cols", "a ragged tile is never full", TILES),
    Fault(M + "plan.py", "status[tuple(tiles.T)] = _classes(mask, grid, tiles)", "status[tuple(tiles.T)] = PARTIAL", "undecided tiles are not evaluated", TILES),
    Fault(M + "grid.py", "if row_ends:", "if False:", "a ragged last row of tiles follows the diagonals", TILES),
    Fault(M + "axis.py", "last[..., -1] = start + length - 1", "pass", "the last tile reaches past the end", TILES),
    Fault(M + "axis.py", "places[..., :length] = positions", "places[..., :length] = np.arange(length)", "tiles ignore explicit positions", TILES),
    Fault(M + "heads.py", "part = self.masks[head].at(*own)", "part = self.masks[0].at(*own)", "all heads have the first one's mask", LEAVES),
    Fault(M + "heads.py", "part[:, h : h + 1] if part.shape[1] > 1", "part[:, :1] if part.shape[1] > 1", "all heads have the first one's tiles", TILES),
    Fault(M + "packed.py", "== ids[b, j.clamp(0, T - 1)]", "== ids[b * 0, j.clamp(0, T - 1)]", "keys have the documents of the first batch row", TILES),
    Fault(M + "packed.py", "(i < T) & (j < T)", "(i < T)", "keys past the last document belong to it", TILES),
    Fault(M + "tile_map.py", "(i // self.rows).clamp(0, down), (j // self.cols).clamp(0, across)", "(j // self.rows).clamp(0, down), (i // self.cols).clamp(0, across)", "blocks take rows for columns", LEAVES),
    Fault(M + "tile_map.py", "held == area", "held >= area - 1", "a nearly full block is full", TILES),
    Fault(M + "chosen.py", "listed & (lists >= least)", "lists >= least", "queries without a list see another's", FORMS),
    Fault(M + "line.py", "left, right = self.window // 2, (self.window - 1) // 2", "left, right = (self.window - 1) // 2, self.window // 2", "an even neighbourhood leans the other way", ("tests/masks/test_neighbourhood.py", *TILES)),
    Fault(M + "line.py", "leader = torch.minimum(start + self.stride // 2, held - 1)", "leader = torch.minimum(p, held - 1)", "a stride group has no leader", ("tests/masks/test_neighbourhood.py", *TILES)),
    Fault(M + "powers.py", "(distance & (distance - 1)) == 0", "(distance % 2) == 0", "power attention takes every other block", ("tests/masks/test_power.py",)),
    Fault(M + "flex.py", "dim=-1, descending=True, stable=True", "dim=-1, descending=False, stable=True", "a block mask lists the other tiles", ("tests/masks/test_at.py", "-k", "block_mask")),
    Fault(M + "flex.py", "i = q_idx + start if q is None", "i = q_idx if q is None", "a block mask takes places for positions", ("tests/masks/test_at.py", "-k", "block_mask")),
]  # fmt: skip
