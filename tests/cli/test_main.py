"""The entry point: what a person can mend is one line and exit code 2, and help imports nothing heavy."""

import errno
import json
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import regard
from regard.cli import group
from regard.cli.main import EXTRAS, main
from regard.errors import CheckpointError, EngineRefused, MissingExtra, ShapeError

ROOT = Path(__file__).parents[2]
Output = pytest.CaptureFixture[str]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Give the command line a command `probe` that does what the test says."""

    def install(deed: Callable[..., object]) -> None:
        module = types.ModuleType("probe_of_main")
        vars(module)["command"] = click.Command("probe", callback=deed, params=[click.Option(["--size"], type=int)])
        monkeypatch.setitem(sys.modules, "probe_of_main", module)
        monkeypatch.setitem(group.COMMANDS, "probe", group.Command("probe_of_main:command", "A probe."))

    return install


def raiser(error: BaseException) -> Callable[..., object]:
    def deed(**settings: object) -> object:
        raise error

    return deed


def only_line(output: Output) -> str:
    said = output.readouterr()
    assert said.out == ""
    assert said.err.strip().count("\n") == 0, said.err
    return said.err.strip()


def fresh(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_command_that_returns_nothing_succeeds(probe: Callable) -> None:
    probe(lambda size: None)
    assert main(["probe"]) == 0


def test_a_command_chooses_its_exit_code(probe: Callable) -> None:
    probe(lambda size: 3)
    assert main(["probe"]) == 3


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"regard {regard.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_with_its_line(arguments: list[str], capsys: Output) -> None:
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, command in group.COMMANDS.items():
        assert f" {name} {command.summary}" in shown


@pytest.mark.parametrize("name", sorted(group.COMMANDS))
def test_every_command_that_is_listed_exists_and_has_help(name: str, capsys: Output) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: regard {name} ")


def test_help_imports_neither_torch_nor_a_command() -> None:
    script = (
        "import json, sys\nfrom regard.cli.main import main\ncode = main(['--help'])\n"
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    done = fresh(script)
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    heavy = {"torch", "numpy", "transformers", "rich", *(c.target.partition(":")[0] for c in group.COMMANDS.values())}
    assert heavy & set(modules) == set()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["compair"], "No command 'compair'. Did you mean 'compare'? See: regard --help"),
        (["zzz"], "No command 'zzz'. There are: compare, list, models, papers, show, train. See: regard --help"),
        (
            ["probe", "--size", "big"],
            "Invalid value for '--size': 'big' is not a valid integer. See: regard probe --help",
        ),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_line(typed: list[str], said: str, probe: Callable, capsys: Output) -> None:
    if typed[0] == "probe":
        probe(lambda size: None)
    assert main(typed) == 2
    assert only_line(capsys) == f"regard: {said}"


def test_a_misspelt_option_suggests_the_nearest(probe: Callable, capsys: Output) -> None:
    probe(lambda size: None)
    assert main(["probe", "--sise", "3"]) == 2
    assert "--sise" in (line := only_line(capsys))
    assert "--size" in line


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("smollm2-135m is not here.\nType: regard models pull smollm2-135m"),
        ShapeError("q has 3 axes; attend takes [B H N D]."),
        EngineRefused("flex", ["float64 is not compiled"]),
        MissingExtra("A report", "viewer"),
        click.ClickException("no such file"),
        OSError("the connection was refused"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(error: Exception, probe: Callable, capsys: Output) -> None:
    probe(raiser(error))
    assert main(["probe"]) == 2
    assert only_line(capsys) == "regard: " + " ".join(str(error).split())


def test_a_full_disk_says_where(probe: Callable, capsys: Output) -> None:
    probe(raiser(OSError(errno.ENOSPC, "No space left on device", "compare.json")))
    assert main(["probe"]) == 2
    assert only_line(capsys) == "regard: No space left on device: compare.json"


def test_debug_shows_the_traceback_before_the_line(
    probe: Callable, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGARD_DEBUG", "1")
    probe(raiser(CheckpointError("broken")))
    assert main(["probe"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert "in deed" in shown
    assert shown.endswith("\nregard: broken\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_one_line_and_code_130(error: BaseException, probe: Callable, capsys: Output) -> None:
    probe(raiser(error))
    assert main(["probe"]) == 130
    assert only_line(capsys) == "regard: interrupted"


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault"), ValueError("a fault"), EOFError("a fault")])
def test_a_fault_of_regard_keeps_its_traceback(error: Exception, probe: Callable) -> None:
    probe(raiser(error))
    with pytest.raises(type(error), match="a fault"):
        main(["probe"])


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_command_line_that_is_not_installed_says_the_pip_command(missing: str) -> None:
    script = f"import sys\nsys.modules[{missing!r}] = None\nfrom regard.cli.main import main\nsys.exit(main())"
    done = fresh(script, "papers")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "regard: The command line needs the 'cli' extra. Type: pip install 'regard[cli]'\n"


def test_any_other_optional_package_says_its_own_extra(probe: Callable, capsys: Output) -> None:
    probe(raiser(ModuleNotFoundError("No module named 'transformers.models'", name="transformers.models")))
    assert main(["probe"]) == 2
    said = "regard: The package 'transformers' needs the 'hf' extra. Type: pip install 'regard[hf]'"
    assert only_line(capsys) == said


def test_a_module_that_regard_should_have_is_a_fault(probe: Callable) -> None:
    probe(raiser(ModuleNotFoundError("No module named 'regard.nowhere'", name="regard.nowhere")))
    with pytest.raises(ModuleNotFoundError):
        main(["probe"])


def test_the_extras_are_the_project_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {
        requirement.partition(">")[0].replace("-python", "").replace("-", "_"): extra
        for extra in ("hf", "cli", "plot", "viewer")
        for requirement in extras[extra]
    }
    assert packages == EXTRAS
