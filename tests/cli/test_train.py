"""`regard train` as it is typed: one line for a mistake, and the files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regard.bench.train import training
from regard.cli.main import main

Output = pytest.CaptureFixture[str]
TINY = ["--steps", "4", "--seeds", "2", "--length", "16", "--batch", "2", "--dim", "8", "--heads", "1", "--layers", "1"]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)


def refused(arguments: list[str], capfd: Output) -> str:
    """The line that a person reads; stdout and the folder that the command was typed in must stay empty."""
    capfd.readouterr()
    assert main(["train", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("regard: ")
    assert err.count("\n") == 1, err
    assert list(Path().rglob("*")) == []
    return err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "mqra"], "Unknown task 'mqra'. Did you mean 'mqar'? Tasks are "),
        (["-m", "sofmax"], "Unknown mechanism 'sofmax'. Did you mean 'softmax'?"),
        (["-m", "sliding_window:windw=3"], "has no setting 'windw'. Did you mean 'window'?"),
        (["-m", "softmax,sliding_window:window=0"], "sliding_window:window=0 can't be trained here: "),
        (["--position", "softmax"], "--position softmax is a mixer; type one of "),
        (["--steps", "0"], "--steps must be at least 1; got 0."),
        (["--length", "8"], "mqar needs at least 16 tokens; got --length 8."),
        (["--length", "33"], "mqar needs an even length; got 33. Type --length 34."),
        (["--heads", "3"], "--dim 64 is not a multiple of --heads 3"),
        (["--steps", "many"], "'many' is not a valid integer"),
        (["--device", "abacus"], "--device abacus can't be used here ("),
        (["--resume"], "There is nothing to resume: no regard-train/train.json. Type the command without --resume."),
    ],
)
def test_mistakes(arguments: list[str], said: str, capfd: Output) -> None:
    assert said in refused(arguments, capfd)


def test_a_run_and_its_files(capfd: Output) -> None:
    assert main(["train", *TINY, "--out", "out", "--json", "deep/copy.json", "-m", "softmax,alibi"]) == 0
    out, _ = capfd.readouterr()
    assert "softmax" in out
    assert "alibi" in out
    assert "Noise floor: " in out
    assert out.rstrip().endswith("Report: out/report.html")
    assert sorted(path.name for path in Path("out").iterdir()) == ["checkpoints", "report.html", "train.json"]
    found = json.loads(Path("out/train.json").read_text())
    assert json.loads(Path("deep/copy.json").read_text()) == found
    assert found["settings"]["steps"] == 4
    assert len(found["runs"]) == 6
    assert main(["train", *TINY, "--out", "out", "-m", "softmax,alibi", "--resume"]) == 0
    again = json.loads(Path("out/train.json").read_text())
    assert again["runs"] == found["runs"]
    capfd.readouterr()
    assert main(["train", *TINY, "--out", "out", "--rate", "0.1", "--resume"]) == 2
    assert "was trained with another settings (rate: 0.002, now 0.1)" in capfd.readouterr().err


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capfd: Output) -> None:
    whole = training.run

    def interrupted(*given: Any, **more: Any) -> Any:
        if given[3] == 1:
            raise KeyboardInterrupt
        return whole(*given, **more)

    monkeypatch.setattr(training, "run", interrupted)
    assert main(["train", *TINY, "--out", "out", "-m", "alibi", "--no-floor"]) == 2
    assert "Stopped. 1 finished trainings are in out/train.json" in capfd.readouterr().err
    monkeypatch.setattr(training, "run", whole)
    assert main(["train", *TINY, "--out", "out", "-m", "alibi", "--no-floor", "--resume"]) == 0
    assert "No noise floor was measured, so nothing is ranked." in capfd.readouterr().out
    assert len(json.loads(Path("out/train.json").read_text())["runs"]) == 2


def test_the_list_of_tasks(capfd: Output) -> None:
    assert main(["train", "--list"]) == 0
    out, _ = capfd.readouterr()
    for name in ("char_lm", "flip_flop", "mqar", "selective_copy", "ignore=0.8"):
        assert name in out
