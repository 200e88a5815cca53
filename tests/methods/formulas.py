"""Who sees whom under each method, in numpy from the papers' formulas; only the drawn blocks are taken from regard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.methods.sparse.random_blocks import draw
from tests.methods.plain import Call, Rule, distances
from tests.oracle import Array


@dataclass(frozen=True)
class Case:
    """A method as it is typed, and its rule. `decoding` is another rule for tokens that are decoded, if there is one."""

    text: str
    rule: Rule
    decoding: Rule | None = None


def everything(call: Call) -> Array:
    return np.ones((1, 1, 1, 1), dtype=bool)


def sliding(window: int) -> Rule:
    def rule(call: Call) -> Array:
        i, j = distances(call.place)
        return i - j < window

    return rule


def streaming(window: int, sinks: int) -> Rule:
    def rule(call: Call) -> Array:
        i, j = distances(call.place)
        return (i - j < window) | (j < sinks)

    return rule


def power(block: int, window: int, sinks: int) -> Rule:
    """I = i // b, J = j // b, delta = I - J: visible where delta < w, or J < s, or delta is 1, 2, 4, 8, .."""

    def rule(call: Call) -> Array:
        i, j = distances(call.place)
        delta = i // block - j // block
        powers = np.isin(delta, [2**n for n in range(12)])
        return (delta < window) | (j // block < sinks) | powers

    return rule


def moba(block: int, top_k: int) -> Rule:
    """s = q . mean of a block's keys, its own block always, later ones never, the `top_k` highest."""

    def rule(call: Call) -> Array:
        seen = np.zeros(call.allowed.shape, dtype=bool)
        for b, h, n in np.ndindex(*seen.shape[:3]):
            at = call.place[b, n]
            if at < 0:
                continue
            own, block_of = at // block, np.where(call.place[b] < 0, -1, call.place[b] // block)
            scores = {
                one: call.q[b, h, n] @ call.keys[b, h][block_of == one].mean(0) for one in range(own)
            }  # the blocks before its own, all of them complete
            best = sorted(scores, key=lambda one: -scores[one])[: top_k - 1]
            seen[b, h, n] = np.isin(block_of, [own, *best])
        return seen

    return rule


def top_k(k: int) -> Rule:
    """The k allowed keys with the highest products."""

    def rule(call: Call) -> Array:
        seen = np.zeros(call.allowed.shape, dtype=bool)
        for b, h, n in np.ndindex(*seen.shape[:3]):
            allowed = np.nonzero(call.allowed[b, h, n])[0]
            products = call.keys[b, h, allowed] @ call.q[b, h, n]
            seen[b, h, n, allowed[np.argsort(-products)[:k]]] = True
        return seen

    return rule


def top_blocks(k: int, block: int, alone: bool = False) -> Rule:
    """The k / block blocks of keys, its own among them, with most of a block of queries' softmax of the scores (without
    the model's own soft-cap and sinks); `alone`: every query is a block of its own."""

    def rule(call: Call) -> Array:
        seen = np.zeros(call.allowed.shape, dtype=bool)
        for b, h in np.ndindex(*seen.shape[:2]):
            at = call.place[b]
            block_of = np.where(at < 0, -1, at // block)
            scores = np.where(call.allowed[b, h], call.q[b, h] @ call.keys[b, h].T * call.scale, -np.inf)
            top = scores.max(-1, keepdims=True)
            weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
            weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
            groups = [np.array([n]) for n in np.nonzero(at >= 0)[0]]
            groups = groups if alone else [np.nonzero(block_of == r)[0] for r in range(block_of.max() + 1)]
            for rows in groups:
                own = block_of[rows[0]]
                mass = {c: weights[rows][:, block_of == c].sum() for c in range(block_of.max() + 1) if c != own}
                best = sorted((c for c in mass if mass[c] > 0), key=lambda c: -mass[c])[: k // block - 1]
                seen[b, h, rows] = np.isin(block_of, [own, *best])
        return seen

    return rule


def spargeattn(tau: float, theta: float, q_block: int, k_block: int, sink: bool = True) -> Rule:
    """Steps 0 to 5 of the catalogue's entry, block by block, with the edge and the diagonal always computed."""

    def rule(call: Call) -> Array:
        seen = np.zeros(call.allowed.shape, dtype=bool)
        for b, h in np.ndindex(*seen.shape[:2]):
            at = call.place[b]
            q, k = call.q[b, h][at >= 0], call.keys[b, h][at >= 0]
            k = k - k.mean(0)
            queries, keys = ([x[s : s + n] for s in range(0, len(x), n)] for x, n in ((q, q_block), (k, k_block)))
            pooled = [key.mean(0) if similarity(key) > theta else None for key in keys]
            for r, ours in enumerate(queries):
                i = np.arange(r * q_block, (r + 1) * q_block)[:, None]
                mean = ours.mean(0) * call.scale if similarity(ours) > theta else None
                usable, kept = {}, set()
                for c in range(len(keys)):
                    j = np.arange(c * k_block, (c + 1) * k_block)
                    tile = (j <= i) & (i - j < (call.window or np.inf))
                    if tile.any():
                        usable[c] = pooled[c]
                    if tile.any() and (not tile.all() or np.isin(i, j).any() or (sink and c == 0)):
                        kept.add(c)
                for c in kept | highest(mean, usable, tau):
                    block = (at >= c * k_block) & (at < (c + 1) * k_block)
                    seen[b, h] |= ((at >= i.min()) & (at <= i.max()))[:, None] & block
        return seen

    return rule


def highest(mean: Array | None, usable: dict[int, Array | None], tau: float) -> set[int]:
    """The blocks with the most pooled attention up to `tau`, and those whose mean says nothing."""
    if mean is None:
        return set(usable)
    selective = [c for c, pooled in usable.items() if pooled is not None]
    found = set(usable) - set(selective)
    scores = np.array([mean @ usable[c] for c in selective])
    weights = np.exp(scores - scores.max(initial=-np.inf))
    mass = 0.0
    for n in np.argsort(-weights):
        if mass >= tau:
            break
        found.add(selective[n])
        mass += weights[n] / weights.sum()
    return found


def similarity(block: Array) -> float:
    """The mean of all cosines between rows of a block, each with itself included."""
    unit = block / np.linalg.norm(block, axis=-1, keepdims=True)
    return float((unit @ unit.T).mean())


def random_blocks(keep: float, block: int, seed: int) -> Rule:
    """The drawn table, spread over the tokens of its blocks."""

    def rule(call: Call) -> Array:
        i, j = distances(np.maximum(call.place, 0) // block)
        table = draw(int(i.max()) + 1, call.q.shape[1], keep, seed, call.layer)[0].numpy()
        return table[np.arange(call.q.shape[1])[None, :, None, None], i, j]

    return rule


CASES = {
    "dense": [Case("dense", everything)],
    "sliding_window": [Case("sliding_window:window=1", sliding(1)), Case("sliding_window:window=37", sliding(37))],
    "streaming_llm": [
        Case("streaming_llm:window=33,sinks=3,in_cache_positions=false", streaming(33, 3)),
        Case("streaming_llm:window=1,sinks=1,in_cache_positions=false", streaming(1, 1)),
        Case("streaming_llm:window=20,sinks=0", streaming(20, 0)),
    ],
    "power_attention": [
        Case("power_attention:block=8,window=2,sinks=1", power(8, 2, 1)),
        Case("power_attention:block=1,window=3,sinks=0", power(1, 3, 0)),
    ],
    "moba": [Case("moba:block=16,top_k=3", moba(16, 3)), Case("moba:block=7,top_k=2", moba(7, 2))],
    "oracle_top_k": [
        Case("oracle_top_k:k=12", top_k(12)),
        Case("oracle_top_k:k=1", top_k(1)),
        Case("oracle_top_k:k=24,block=8", top_blocks(24, 8), top_blocks(24, 8, alone=True)),
    ],
    "random_blocks": [
        Case("random_blocks:keep=0.25,block=8,seed=3", random_blocks(0.25, 8, 3)),
        Case("random_blocks:keep=0,block=16", random_blocks(0.0, 16, 0)),
    ],
    "spargeattn": [
        Case("spargeattn:tau=0.5,theta=0.05,q_block=16,k_block=8", spargeattn(0.5, 0.05, 16, 8), everything),
        Case(
            "spargeattn:tau=0.2,theta=-1,q_block=6,k_block=4,sink=false",
            spargeattn(0.2, -1.0, 6, 4, False),
            everything,
        ),
    ],
}
