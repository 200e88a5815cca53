"""`regard compare` typed wrong: one line that says what to type, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from regard.bench.compare import compare as run
from regard.cli.main import main
from tests.bench.tiny import llama, tokenizer

Output = pytest.CaptureFixture[str]
SHORT = ("--context", "128", "--decode", "2", "-m", "sliding_window:window=16")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of checkpoints and an empty current folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    llama().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=320, **sizes)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def refused(arguments: list[str], capfd: Output) -> str:
    """The line that a person reads; stdout and the folder that the command was typed in must stay empty."""
    capfd.readouterr()
    assert main(["compare", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("regard: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert list(Path().rglob("*")) == []
    return err


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("streaming_lm", "Unknown method 'streaming_lm'. Did you mean 'streaming_llm'? Methods are dense, "),
        ("sliding_window:windw=3", "has no setting 'windw'. Did you mean 'window'? Its settings are window."),
        ("dense:window=3", "dense has no setting 'window'. It has none."),
        ("sliding_window:window=0", "SlidingWindow.window must be at least 1; got 0."),
        ("spargeattn:tau=1.5", "SpargeAttn.tau must be in (0, 1]; got 1.5."),
        ("sliding_window:window=many", "sliding_window.window must be a whole number; got 'many'."),
        ("sliding_window:", "type sliding_window:key=value,... or sliding_window."),
        ("sliding_window:window", "is not key=value; type sliding_window:key=value,key=value."),
        ("sliding_window:window=3,window=4", "'window' is given twice"),
    ],
)
def test_methods(method: str, said: str, capfd: Output) -> None:
    assert said in refused(["-m", method], capfd)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--context", "63", "--context must be at least 64; got 63."),
        ("--decode", "-1", "--decode must be at least 0; got -1."),
        ("--stream", "-5", "--stream must be at least 0; got -5."),
        ("--seed", "-1", "--seed must be at least 0; got -1."),
        ("--seed", str(2**70), f"--seed must be below {2**32}; got {2**70}."),
        ("--context", "long", "'long' is not a valid integer"),
        ("--dtype", "float8", "'float8' is not one of"),
        ("--device", "abacus", "--device abacus can't be used here ("),
    ],
)
def test_numbers_and_names(option: str, value: str, said: str, capfd: Output) -> None:
    assert said in refused([option, value], capfd)


def test_texts(tmp_path: Path, capfd: Output) -> None:
    for name, data, said in (
        ("empty.txt", b"", "empty.txt is empty; --text takes a text with some words in it."),
        ("blank.txt", b" \n\n", "blank.txt is empty"),
        ("zeros.bin", b"abc\0def", "zeros.bin is a binary file; --text takes plain text."),
        ("picture.png", b"\x89PNG\r\n", "picture.png is not UTF-8 text (byte 0)"),
    ):
        (tmp_path / name).write_bytes(data)
        assert said in refused(["--text", str(tmp_path / name)], capfd)
    assert "missing.txt; --text takes the path of a UTF-8 text" in refused(["--text", "missing.txt"], capfd)
    assert "is a folder; --text takes a text file." in refused(["--text", str(tmp_path)], capfd)


def test_a_text_that_is_too_short_says_which_context_fits(tmp_path: Path, model: str, capfd: Output) -> None:
    book = tmp_path / "short.txt"
    book.write_text("One two three four five. " * 40)
    tokens = len(tokenizer()(book.read_text(), add_special_tokens=False)["input_ids"])
    fits = (tokens - 8) // 64 * 64
    line = refused(["--model", model, "--text", str(book), "--decode", "8"], capfd)
    assert f"short.txt has {tokens} tokens; --context 4096 and --decode 8 need 4104. Type --context {fits}, " in line
    arguments = ["--model", model, "--text", str(book), "--decode", "8", "--context", str(fits), *SHORT[4:]]
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 0  # the advice works
    capfd.readouterr()
    book.write_text("One two.")
    assert refused(["--model", model, "--text", str(book)], capfd).endswith("Give a longer text.\n")


def test_models(tmp_path: Path, encoder: str, capfd: Output) -> None:
    line = refused(["--model", encoder, *SHORT], capfd)
    assert "is a BertModel; regard compare needs a causal language model" in line
    assert "Type: regard models pull smollm2-135m" in refused(list(SHORT), capfd)
    assert "no config.json" in refused(["--model", str(tmp_path / "here"), *SHORT], capfd)
    assert "Did you mean 'smollm2-135m'?" in refused(["--model", "smollm-135m", *SHORT], capfd)


def test_resume_with_nothing_there(tmp_path: Path, model: str, capfd: Output) -> None:
    line = refused(["--model", model, *SHORT, "--resume"], capfd)
    assert "There is nothing to resume: no regard-compare/compare.json. Type the command without --resume." in line
    out = tmp_path / "out"
    out.mkdir()
    for foreign in ("[1, 2]", '{"schema": 2, "rows": []}', "not json", '{"schema": 1, "rows": 7}'):
        (out / "compare.json").write_text(foreign)
        line = refused(["--model", model, *SHORT, "--resume", "--out", str(out)], capfd)
        assert line.endswith("Type the command without --resume.\n")
        assert (out / "compare.json").read_text() == foreign


@pytest.mark.parametrize("inside", ["", "deeper/still"])
def test_out_where_a_file_is(inside: str, tmp_path: Path, model: str, capfd: Output) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    line = refused(["--model", model, *SHORT, "--out", str(file / inside)], capfd)
    assert "compare.json can't be written: " in line
    assert f"{file} is a file, not a folder." in line
    assert file.read_text() == "mine"


def test_json_where_a_folder_is(tmp_path: Path, model: str, capfd: Output) -> None:
    assert "can't be written: it is a folder." in refused(["--model", model, *SHORT, "--json", str(tmp_path)], capfd)


def interrupted(at: str) -> Callable[..., object]:
    """The comparison, stopped by a person when it tells that it is at a method."""

    def compare(*given: object, progress: object, **named: object) -> object:
        def stop(doing: str, done: float) -> None:
            if doing.startswith(at):
                raise KeyboardInterrupt

        return run(*given, progress=stop, **named)  # type: ignore[arg-type]

    return compare


def test_an_interrupt_before_any_row_does_not_promise_rows(
    tmp_path: Path, model: str, capfd: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regard.bench.compare.compare", interrupted("dense"))
    out = tmp_path / "out"
    typed = ["compare", "--model", model, *SHORT, "--out", str(out)]
    said = "regard: Stopped before a row was finished; type the same command to begin again.\n"
    assert main(typed) == 2
    assert capfd.readouterr() == ("", said)
    assert not out.exists()
    out.mkdir()
    (out / "compare.json").write_text('{"schema": 1, "rows": []}')  # what an earlier comparison left
    assert main(typed) == 2
    assert capfd.readouterr() == ("", said)
    assert os.listdir(out) == ["compare.json"]


def test_a_full_disk(tmp_path: Path, model: str, capfd: Output) -> None:
    """A limit on the size of files stands for a disk with so much room."""
    resource = pytest.importorskip("resource")
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    capfd.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert main(["compare", "--model", model, *SHORT, "--out", str(out)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr() == ("", f"regard: {out / 'compare.json'} can't be written: File too large.\n")
    assert list(out.iterdir()) == []


def test_an_interrupt_says_how_to_go_on_and_resume_does(
    tmp_path: Path, model: str, capfd: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept.json"
    typed = ["compare", "--model", model, *SHORT, "--out", str(out), "--json", str(kept)]
    with monkeypatch.context() as patch:
        patch.setattr("regard.bench.compare.compare", interrupted("sliding_window"))
        assert main(typed) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == (
        f"regard: Stopped. 1 finished rows are in {out / 'compare.json'}; type the same command with --resume to go on.\n"
    )
    first = json.loads((out / "compare.json").read_text())["rows"][0]
    assert not kept.exists()
    assert not (out / "report.html").exists()
    assert main([*typed, "--resume"]) == 0
    shown = capfd.readouterr()
    assert f"Report: {out / 'report.html'}" in shown.out
    whole = json.loads(kept.read_text())
    assert [row["label"] for row in whole["rows"]] == ["dense", "sliding_window:window=16"]
    assert whole["rows"][0]["prefill_seconds"] == first["prefill_seconds"]  # not measured again
    assert whole == json.loads((out / "compare.json").read_text())
