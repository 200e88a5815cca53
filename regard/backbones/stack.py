"""Which attention stands in which layer of a stack."""

from __future__ import annotations

from collections.abc import Callable

from regard.mechanisms import Layer


def stack(count: int, *makers: Callable[[], Layer]) -> list[Layer]:
    """`count` layers from makers that take turns, from layer 0 on.

    `stack(4, variant)` is uniform; `stack(4, standard, variant)` is a hybrid with the variant in the odd layers, and
    `stack(6, standard, variant, variant)` one that replaces two layers in three.

    Raises: ValueError where there is no maker, or one would make no layer.
    """
    if not makers or count < len(makers):
        raise ValueError(
            f"A stack of {count} layers can't take turns between {len(makers)} mechanisms. Give at least one mechanism "
            f"and at least as many layers: count={max(1, len(makers))}."
        )
    return [makers[index % len(makers)]() for index in range(count)]
