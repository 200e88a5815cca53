"""Going on from what is on disk, whatever it is, and figures that JSON or a float can't hold."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.bench import store
from regard.bench.compare import _related, compare
from regard.bench.needles import NAMES, hide
from regard.bench.settings import Settings, chosen
from regard.bench.statistics import perplexity
from regard.errors import RegardError
from tests.bench.tiny import subject, text, tokenizer

TYPED = ["sliding_window:window=32"]


def measured(path: Path, stream: int, typed: list[str], *, resume: bool) -> dict[str, Any]:
    settings = Settings(context=64, decode=0, needles=1, stream=stream)
    return compare(subject(), text(), chosen(typed), settings, path=path, resume=resume)


def ends(result: dict[str, Any]) -> list[int]:
    return [row["points"][-1]["tokens"] for row in result["stream"]]


def test_a_stream_of_another_length_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    first = measured(path, 300, TYPED, resume=False)
    assert ends(first) == [300, 300]
    again = measured(path, 300, TYPED, resume=True)
    assert again["stream"] == first["stream"]
    longer = measured(path, 520, TYPED, resume=True)
    assert ends(longer) == ends(store.read(path)) == [520, 520]
    assert longer["settings"]["stream"] == 520
    assert longer["rows"][1]["prefill_seconds"] == first["rows"][1]["prefill_seconds"]
    # Without --stream the figures that are there stay, with the length that they are of.
    kept = measured(path, 0, TYPED, resume=True)
    assert kept["stream"] == longer["stream"]
    assert kept["settings"]["stream"] == 520


def test_figures_that_were_saved_as_null_are_no_better_and_no_worse() -> None:
    def row(method: str, perplexity: float | None, kl: float | None) -> dict[str, Any]:
        settings = {"sinks": 4} if method == "streaming_llm" else {}
        return {"method": method, "settings": settings, "density": 0.2, "perplexity": perplexity, "kl": kl}

    for baseline in (row("streaming_llm", 11.0, 0.1), row("streaming_llm", None, None)):
        rows = [row("dense", 10.0, 0.0), baseline, row("moba", None, 0.3), row("moba", 30.0, None)]
        assert [one["worse_than_baseline"] for one in _related(rows)] == [False] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"model": "smollm2"}, {"text": []}, {"settings": None}, {"rows": [3]}, {"rows": [{"method": "dense"}]},
        {"stream": {}}, {"stream": [None]},
    ],
)  # fmt: skip
def test_a_file_with_other_parts_is_not_taken(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    result = measured(path, 0, [], resume=False)
    for missing in ("model", "text", "settings", "stream"):
        path.write_text(json.dumps({key: value for key, value in result.items() if key != missing}))
        if missing != "stream":
            with pytest.raises(RegardError, match="Type the command without --resume|type the command without"):
                measured(path, 0, [], resume=True)
    path.write_text(json.dumps({**result, **change}))
    before = path.read_text()
    with pytest.raises(RegardError, match="is not a result of regard compare. Type the command without --resume"):
        measured(path, 0, [], resume=True)
    assert path.read_text() == before


@pytest.mark.skipif(os.name == "nt", reason="modes are not those of POSIX")
def test_what_is_written_may_be_read_by_others_as_any_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        store.write({"schema": 1, "rows": []}, tmp_path / "compare.json")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "compare.json").stat().st_mode) == 0o644


def test_a_write_that_the_system_refuses_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "compare.json"
    store.write({"schema": 1, "rows": []}, path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RegardError, match=r"compare\.json can't be written: File too large"):
            store.write({"schema": 1, "rows": ["x" * 10000]}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["compare.json"]


def test_a_loss_beyond_any_float_is_infinite() -> None:
    assert perplexity(torch.full((9,), 800.0)) == float("inf")


def test_more_facts_than_names_are_refused() -> None:
    body = torch.arange(5000) % 300
    assert len(hide(tokenizer(), body, 4000, len(NAMES)).answers) == len(NAMES)
    with pytest.raises(ValueError, match=f"at most {len(NAMES)} facts have names of their own; got {len(NAMES) + 1}"):
        hide(tokenizer(), body, 4000, len(NAMES) + 1)


def test_seeds() -> None:
    for seed in (0, 2**32 - 1):
        assert Settings(seed=seed).seed == seed
    with pytest.raises(RegardError, match="--seed must be at least 0; got -1"):
        Settings(seed=-1)
    with pytest.raises(RegardError, match=f"--seed must be below {2**32}; got {2**64}"):
        Settings(seed=2**64)
