"""The checks, in the order in which they run; each knows which specs ask for it."""

from regard.testing.checks import (
    basic,
    batch,
    cost,
    decode,
    depth,
    gradients,
    limits,
    order,
    packing,
    precision,
    refusals,
    sides,
)
from regard.testing.checks.base import Check as Check

CHECKS: dict[str, Check] = {
    check.name: check
    for module in (basic, batch, gradients, order, sides, packing, decode, limits, refusals, precision, cost, depth)
    for check in module.CHECKS
}
