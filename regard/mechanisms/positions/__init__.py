"""How queries and keys are told where they are."""

from regard.mechanisms.positions.none import NoPosition as NoPosition
