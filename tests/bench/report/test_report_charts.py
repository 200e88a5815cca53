"""The charts: which there are, that they agree on colours, and that their pictures are whole."""

import base64
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from regard.bench.report import charts, save_png
from regard.bench.report.costs import pareto
from regard.bench.report.drawing import log_ticks
from regard.bench.report.pixels import png
from regard.bench.report.reading import styles
from regard.bench.report.texts import _thinned
from regard.errors import MissingExtra

Find = Callable[[str], dict[str, Any]]
ALL = ["quality_density", "quality_prefill", "loss", "break_even", "needles", "density_heads", "looks", "stream"]


def _walk(spec: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a specification."""
    if isinstance(spec, dict):
        yield spec
        for inner in spec.values():
            yield from _walk(inner)
    elif isinstance(spec, list):
        for inner in spec:
            yield from _walk(inner)


def _values(chart: Any) -> list[dict[str, Any]]:
    return [value for part in _walk(chart.to_dict()) for value in part.get("values", []) if isinstance(value, dict)]


def test_a_whole_result_has_every_chart_and_each_is_valid(result: dict[str, Any]) -> None:
    drawn = charts(result)
    assert list(drawn) == ALL
    for chart in drawn.values():
        assert isinstance(chart, alt.TopLevelMixin)
        chart.to_dict(validate=True)


@pytest.mark.parametrize(
    ("key", "lost"),
    [
        ("density", {"quality_density"}),
        ("prefill_seconds", {"quality_prefill"}),
        ("perplexity", {"quality_density", "quality_prefill"}),
        ("loss_by_position", {"loss"}),
        ("break_even_times", {"break_even"}),
        ("needles", {"needles"}),
        ("density_by_head", {"density_heads"}),
        ("picture", {"looks"}),
    ],
)
@pytest.mark.parametrize("gone", [True, False])
def test_a_chart_without_figures_is_absent(result: dict[str, Any], key: str, lost: set[str], gone: bool) -> None:
    for row in result["rows"]:
        if gone:
            del row[key]
        else:
            row[key] = None
    assert set(ALL) - set(charts(result)) == lost


def test_no_stream_no_chart_of_it(result: dict[str, Any]) -> None:
    result["stream"] = []
    assert set(ALL) - set(charts(result)) == {"stream"}
    assert charts({}) == {}


def test_one_missing_figure_takes_one_method_out_and_not_the_chart(result: dict[str, Any], row: Find) -> None:
    row("moba")["density"] = None
    row("moba")["picture"]["weights"] = [[0.1], [0.1, 0.2]]
    shown = {value.get("name") for value in _values(charts(result)["quality_density"])}
    assert "moba" not in shown
    assert "spargeattn" in shown
    assert "looks" in charts(result)


def test_a_method_has_one_colour_shape_and_dash_in_all_charts(result: dict[str, Any]) -> None:
    looks = styles(result)
    wanted = {"color": "colour", "shape": "shape", "strokeDash": "dash"}
    seen: set[tuple[str, str]] = set()
    for name, chart in charts(result).items():
        for part in _walk(chart.to_dict()):
            for channel, look in wanted.items():
                encoding = part.get("encoding", {}).get(channel, {})
                if encoding.get("field") != "name":
                    continue
                domain, colours = encoding["scale"]["domain"], encoding["scale"]["range"]
                drawn = [tuple(one) if isinstance(one, list) else one for one in colours]
                assert drawn == [getattr(looks[label], look) for label in domain]
                seen.add((name, channel))
    assert {name for name, channel in seen if channel == "color"} == set(ALL) - {"needles", "density_heads", "looks"}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12))
def test_the_front_holds_exactly_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beaten(one: tuple[float, float]) -> bool:
        return any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in points)

    assert pareto(points) == sorted({one for one in points if not beaten(one)})


@given(st.floats(1e-4, 1e4), st.floats(1.01, 1e5), st.integers(3, 8))
def test_ticks_lie_inside_rise_and_are_few(low: float, times: float, most: int) -> None:
    ticks = log_ticks(low, low * times, most=most)
    assert ticks == sorted(set(ticks))
    assert all(low <= tick <= low * times for tick in ticks)
    assert len(ticks) <= most
    assert times < 10 or len(ticks) >= 1


def test_a_method_that_breaks_does_not_press_the_others_flat(result: dict[str, Any]) -> None:
    spec = charts(result)["quality_density"].to_dict()
    tops = [
        part["y"]["scale"]["domain"][1]
        for part in _walk(spec)
        if "scale" in (part.get("y") or {}) and "field" in part["y"]
    ]
    assert tops
    assert max(tops) < 30
    assert "off the top: sliding_window 312" in str(spec["title"])


def test_two_methods_are_drawn_even_if_one_breaks(result: dict[str, Any]) -> None:
    result["rows"] = result["rows"][:2]
    spec = charts(result)["quality_density"].to_dict()
    assert "off the top" not in str(spec)


def test_the_lower_panel_of_the_loss_is_what_a_method_adds_to_dense(result: dict[str, Any], row: Find) -> None:
    row("dense")["loss_by_position"] = [[0, 128, 3.0], [128, 256, 2.5]]
    row("moba")["loss_by_position"] = [[0, 128, 3.25], [128, 256, 2.25]]
    found = {
        (value["name"], value["at"]): value["more"] for value in _values(charts(result)["loss"]) if "more" in value
    }
    assert found["moba", 64] == pytest.approx(0.25)
    assert found["moba", 192] == pytest.approx(-0.25)
    assert found.get(("dense", 64)) is None


def test_needles_of_several_texts_share_a_sign_that_says_how_many_were_told(result: dict[str, Any], row: Find) -> None:
    places = {(0.1, True), (0.11, True), (0.5, True), (0.51, False), (0.9, False), (0.91, False)}
    row("moba")["needles"] = [{"depth": depth, "correct": correct} for depth, correct in places]
    found = [value for value in _values(charts(result)["needles"]) if value.get("name") == "moba"]
    by_depth = [value["found"] for value in sorted(found, key=lambda value: value["depth"])]
    assert by_depth == ["found", "found in some texts", "missed"]


def test_densities_are_shown_beside_each_other_but_for_dense(result: dict[str, Any]) -> None:
    text = str(charts(result)["density_heads"].to_dict())
    assert "61.2%" in text
    assert "'text': 'dense'" not in text


def test_a_long_stream_is_thinned_to_means_of_neighbours() -> None:
    points = [
        {"tokens": 10 * at, "perplexity": float(2 ** (at % 2)), "kv_bytes": at, "ms_per_token": at}
        for at in range(1, 401)
    ]
    thinned = _thinned({"points": points})
    assert len(thinned) == 134
    assert thinned[0] == {
        "tokens": 30, "perplexity": pytest.approx(2 ** (2 / 3)), "kv_bytes": 3, "ms_per_token": pytest.approx(2),
    }  # fmt: skip
    assert thinned[-1]["tokens"] == 4000


def test_png_is_read_back_bit_for_bit_by_another_reader() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


@pytest.mark.parametrize(("weight", "seen"), [(0.001, True), (0.0, False), (None, False)])
def test_what_was_not_looked_at_is_clear_and_what_was_is_seen(
    result: dict[str, Any], weight: float | None, seen: bool
) -> None:
    result["rows"] = result["rows"][:1]
    result["rows"][0]["picture"]["weights"] = [[1.0, 0.0], [weight, 0.5]]
    url = next(part["url"] for part in _walk(charts(result)["looks"].to_dict()) if "url" in part)
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))[..., 3]
    corners = alpha[0, 0], alpha[0, -1], alpha[-1, 0], alpha[-1, -1]
    assert corners[0] == 255
    assert corners[1] == 0
    assert (corners[2] > 0.1 * 255) == seen
    assert 0.5 * 255 < corners[3] < 255


@pytest.mark.parametrize(
    ("chart", "across", "down"), [("looks", [0, 4096], [0, 4096]), ("density_heads", [-0.5, 29.5], [-0.5, 8.5])]
)
def test_the_axes_of_a_map_run_as_its_pixels_do(
    result: dict[str, Any], chart: str, across: list[float], down: list[float]
) -> None:
    parts = [part["encoding"] for part in _walk(charts(result)[chart].to_dict()) if "encoding" in part]
    encodings = [part for part in parts if "x" in part]
    assert len(encodings) >= 7
    for one in encodings:
        x, y = one["x"]["scale"], one["y"]["scale"]
        assert (x["domain"], x.get("reverse", False)) == (across, False)
        assert (y["domain"], y["reverse"]) == (down, True)  # the first line of pixels is at the top


def test_pictures_are_whole_large_and_on_white(folder: Path) -> None:
    files = {path.stem: path for path in folder.glob("*.png")}
    assert set(files) == set(ALL)
    for path in files.values():
        image = Image.open(path).convert("RGB")
        image.load()
        assert image.width >= 900
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert len(image.getcolors(1 << 24) or []) > 20


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_without_an_optional_package_the_extra_is_named(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for draw in (lambda: charts(result), lambda: save_png(result, tmp_path)):
        with pytest.raises(MissingExtra, match=r"pip install 'regard\[plot\]'"):
            draw()
    assert list(tmp_path.iterdir()) == []
