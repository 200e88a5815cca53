"""`regard models`, typed as a person types it."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from regard.cli.main import main
from regard.cli.models import models
from regard.hf.checkpoints import cache, catalog


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path))
    return tmp_path


def put(folder: Path, name: str) -> Path:
    """A folder that counts as pulled."""
    checkpoint = catalog.get(name)
    place = folder / "checkpoints" / name
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"")
    cache._record(checkpoint, place)
    return place


@pytest.mark.parametrize("arguments", [["models"], ["models", "list"]])
def test_the_list_names_every_checkpoint_and_what_is_pulled(
    arguments: list[str], empty_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(empty_cache, "minilm-l6")
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split()[0]: line.split()[-1] for line in lines if line.split()[:1] and line.split()[0] in catalog.names()
    }
    assert rows == {name: "yes" if name == "minilm-l6" else "no" for name in catalog.names()}
    assert "Apache-2.0" in "\n".join(lines)


def test_path_prints_the_folder_and_nothing_else(empty_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = put(empty_cache, "minilm-l6")
    assert main(["models", "path", "minilm-l6"]) == 0
    assert capsys.readouterr() == (f"{place}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["path", "minilm-l6"], "regard: minilm-l6 is not pulled. Type: regard models pull minilm-l6\n"),
        (["path", "all"], "regard: There is no checkpoint called 'all'. The names are: "),
        (["pull", "whisper"], "regard: There is no checkpoint called 'whisper'. Did you mean 'whisper-tiny-en'? "),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_pull_all_pulls_each_and_prints_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def pull(name: str, *, force: bool, progress: object) -> Path:
        asked.append((name, force))
        assert callable(progress)
        progress(f"Fetching {name}")
        return Path("/cache") / name

    monkeypatch.setattr(cache, "pull", pull)
    result = CliRunner().invoke(models, ["pull", "all", "--force"])
    assert asked == [(name, True) for name in catalog.names()]
    assert result.stdout.splitlines() == [str(Path("/cache") / name) for name in catalog.names()]
    assert result.stderr.splitlines() == [f"Fetching {name}" for name in catalog.names()]


def test_the_list_does_not_wait_for_transformers(empty_cache: Path) -> None:
    import subprocess

    code = "import sys, regard.cli.models; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
