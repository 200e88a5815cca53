"""Figures as people read them: few digits, plain units, one sign for what was not measured."""

import math

MISSING = "–"
_ASCII = str.maketrans({"–": "-", "×": "x", "†": "*", "…": "...", "·": ","})


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, thousands grouped and never in powers of ten."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    # Rounded first, so that 9.996 counts as 10.0 and does not gain a digit.
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
    return f"{rounded:,.{places}f}"


def nats(value: float | None) -> str:
    """A divergence in nats, to the third place."""
    if value is None:
        return MISSING
    if 0 < value < 0.0005:
        return "<0.001"
    return "0" if value == 0 else f"{value:.3f}" if value < 100 else significant(value)


def percent(value: float | None) -> str:
    """A share of one as per cent; nothing but one is shown as 100% and nothing but zero as 0%."""
    if value is None:
        return MISSING
    if value in (0, 1):
        return f"{value * 100:.0f}%"
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 <= value < 1:
        return ">99.9%"
    return f"{value * 100:.1f}%"


def ratio(value: float | None) -> str:
    """A multiple of what dense takes."""
    if value is None:
        return MISSING
    if 0 < value < 0.005:
        return f"{value:.1g}×" if value >= 0.0001 else "<0.0001×"
    return f"{value:.2f}×" if value < 9.995 else f"{value:,.0f}×" if value >= 99.5 else f"{value:.1f}×"


def count(value: float | None) -> str:
    """A number of operations with a prefix of a thousand: k, M, G, T, P."""
    return _scaled(value, ("", " k", " M", " G", " T", " P", " E"))


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    return _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB", " EB"))


def tokens(value: float | None) -> str:
    """A number of tokens."""
    return MISSING if value is None else f"{value:,.0f}"


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval."""
    return MISSING if low is None or high is None else f"{significant(low, 3)}–{significant(high, 3)}"


def clean(text: object) -> str:
    """Text from a person on one line, without control signs that could move a cursor or turn the reading order."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in str(text))


def ascii_only(text: str) -> str:
    """The same text for a terminal that can't print more than ASCII."""
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


def listed(items: list[str], *, joint: str = "and") -> str:
    """Items as a sentence has them: `a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {joint} {items[-1]}" if items else ""


def _scaled(value: float | None, units: tuple[str, ...]) -> str:
    if value is None:
        return MISSING
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.0f}{units[0]}" if step == 0 else f"{significant(value, 3)}{units[step]}"
