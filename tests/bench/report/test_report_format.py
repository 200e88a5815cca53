"""Figures as text, names and looks."""

import itertools
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.bench.report import format as fmt
from regard.bench.report.reading import (
    COLOURS,
    DASHES,
    GRID,
    INK,
    LIGHTER,
    MUTED,
    SHAPES,
    names,
    number,
    stream_names,
    styles,
)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (fmt.significant(17.3149, 4), "17.31"),
        (fmt.significant(9.996), "10.0"),
        (fmt.significant(0.04514), "0.0451"),
        (fmt.significant(1234.5, 4), "1,234"),
        (fmt.significant(0), "0"),
        (fmt.significant(None), "–"),
        (fmt.percent(1), "100%"),
        (fmt.percent(0.99996), ">99.9%"),
        (fmt.percent(0.00002), "<0.1%"),
        (fmt.percent(0.1234), "12.3%"),
        (fmt.nats(0.0001), "<0.001"),
        (fmt.nats(0.0), "0"),
        (fmt.nats(3.2144), "3.214"),
        (fmt.ratio(0.652), "0.65×"),
        (fmt.ratio(9.999), "10.0×"),
        (fmt.ratio(312.4), "312×"),
        (fmt.ratio(0.0041), "0.004×"),
        (fmt.size(0), "0 B"),
        (fmt.size(999), "999 B"),
        (fmt.size(94_371_840), "94.4 MB"),
        (fmt.size(999_600), "1.00 MB"),
        (fmt.count(2.9e11), "290 G"),
        (fmt.count(12), "12"),
        (fmt.tokens(16384), "16,384"),
        (fmt.interval(16.41, 18.2), "16.4–18.2"),
        (fmt.interval(None, 18.2), "–"),
        (fmt.listed(["a", "b", "c"]), "a, b and c"),
        (fmt.ascii_only("0.65× † 1–2"), "0.65x * 1-2"),
    ],
)
def test_figures(said: str, wanted: str) -> None:
    assert said == wanted


@given(st.floats(1e-6, 1e12), st.integers(2, 5))
def test_significant_keeps_so_many_digits(value: float, digits: int) -> None:
    said = Decimal(fmt.significant(value, digits).replace(",", ""))
    # Python's round-half-even of the nearest binary may differ from the decimal context by one unit in the last place.
    wanted = Context(prec=digits).create_decimal(value)
    assert abs(said - wanted) <= Decimal(1).scaleb(wanted.adjusted() - digits + 1)
    assert "e" not in str(fmt.significant(value, digits)).lower()


def test_clean_leaves_no_sign_that_moves_a_cursor_or_turns_the_reading_order() -> None:
    assert fmt.clean("a\x1b[2Jb\u202ec\nd") == "a�[2Jb�c�d"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), True, "3"])
def test_what_is_no_figure_is_missing(value: object) -> None:
    assert number(value) is None


def test_names_are_short_where_a_method_stands_once(result: dict[str, Any]) -> None:
    assert names(result) == [row["method"] for row in result["rows"]]
    assert stream_names(result) == ["dense", "sliding_window", "streaming_llm"]


def test_names_tell_rows_of_one_method_apart(result: dict[str, Any]) -> None:
    other = {
        **result["rows"][2],
        "settings": {"window": 1020, "sinks": 4},
        "label": "streaming_llm:window=1020,sinks=4",
    }
    result["rows"] += [other, dict(other)]
    found = names(result)
    assert found[2] == "streaming_llm window=508"
    assert found[-2:] == ["streaming_llm window=1020", "streaming_llm window=1020 (2)"]
    assert stream_names(result)[2] == found[2]


def test_a_stream_without_a_row_has_a_name_and_a_look_of_its_own(result: dict[str, Any]) -> None:
    result["stream"].append({"method": "alone", "settings": {}, "label": "alone", "points": []})
    looks = styles(result)
    assert stream_names(result)[-1] == "alone"
    assert len({(look.colour, look.shape, look.dash) for look in looks.values()}) == len(looks) == 9


def test_looks_are_told_apart_for_forty_methods() -> None:
    rows = [{"method": f"m{at}", "settings": {}, "label": f"m{at}"} for at in range(40)]
    looks = styles({"rows": rows})
    assert len({(look.colour, look.shape) for look in looks.values()}) == 40


def _linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    light = sorted(float(_linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


WHITE, DARK = "#ffffff", "#12161c"


def test_marks_stand_out_from_the_ground_and_words_can_be_read() -> None:
    # WCAG 2.2: 3 for graphical objects (1.4.11), 4.5 for text (1.4.3).
    assert min(_contrast(colour, WHITE) for colour in COLOURS) >= 3
    assert min(_contrast(colour, DARK) for colour in LIGHTER) >= 4.5
    assert min(_contrast(colour, WHITE) for colour in (INK, MUTED)) >= 4.5
    assert _contrast(GRID, WHITE) < 1.5  # a grid that shouts is as bad as words that whisper


# Machado, Oliveira and Fernandes 2009, severity 1.0.
SEEN = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
}


def _lab(colour: str, seen: str) -> np.ndarray:
    linear = np.clip(np.array(SEEN[seen]) @ _linear(colour), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("palette", [(INK, *COLOURS), ("#e6eaf0", *LIGHTER)])
@pytest.mark.parametrize("seen", list(SEEN))
def test_no_two_methods_look_alike(palette: tuple[str, ...], seen: str) -> None:
    # A difference of 2.3 is just noticeable; 10 is seen at a glance, in small marks too. Shape and dash differ besides.
    apart = {
        (one, other): np.linalg.norm(_lab(one, seen) - _lab(other, seen))
        for one, other in itertools.combinations(palette, 2)
    }
    assert min(apart.values()) >= 10, min(apart, key=lambda pair: apart[pair])


def test_every_colour_has_a_lighter_twin() -> None:
    assert len(COLOURS) == len(LIGHTER) == len(set(COLOURS)) == len(set(LIGHTER))
    assert len(set(SHAPES)) == len(SHAPES)
    assert len(set(DASHES)) == len(DASHES)
