"""House rules that a reader should not have to check by eye."""

import ast
import re
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import regard

ROOT = Path(__file__).parents[1]
OUTPUTS = {"build", "dist", "out", "results", "site"}
TEXT = {"", ".cfg", ".css", ".html", ".j2", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def tree(suffixes: set[str]) -> Iterator[Path]:
    """Files of the checkout that are its own: no environment, no caches, no outputs, no books."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        made = parts[0] in OUTPUTS or "__pycache__" in parts or any(part.endswith(".egg-info") for part in parts)
        if path.is_file() and path.suffix in suffixes and not hidden and not made and parts[-2:-1] != ("data",):
            yield path


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


PICKLES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE = {"torch.load", "torch.save"}

SOURCES = [path for path in tree({".py"}) if path.is_relative_to(ROOT / "regard")]
PYTHON = list(tree({".py"}))


def test_the_version_is_the_project_s() -> None:
    assert regard.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_files_are_short() -> None:
    assert [f"{path}: {lines(path)}" for path in SOURCES if lines(path) > 400] == []
    assert statistics.median(lines(path) for path in SOURCES if path.name != "__init__.py") <= 150


def test_names_say_what_a_file_holds() -> None:
    banned = {"common", "helper", "helpers", "misc", "util", "utils"}
    assert [str(path) for path in PYTHON if banned & {path.stem, *path.relative_to(ROOT).parts}] == []


def faults(code: str) -> list[str]:
    """What this code does that the house forbids: pickles, code from a model's folder, unguarded loads."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            safe = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if safe else [f"{node.arg} is not False"]
        found += [f"uses {name}" for name in names if name.partition(".")[0] in PICKLES or name in UNSAFE]
    return found


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe_is_loaded(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('a')",
        "from torch import load",
        "read(name, trust_remote_code=True)",
        "read(name, trust_remote_code=trusted)",
        "numpy.load(name, allow_pickle=True)",
    ],
)
def test_the_rule_sees_what_is_unsafe(code: str) -> None:
    assert len(faults(code)) >= 1


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    absolute = re.compile(r"(?<![\w./:~$}>-])/(?:home|root|Users|work|workspace|mnt|media|srv)/[\w.]")
    unfinished = re.compile(r"\b(?:TO|FIX)(?:DO|ME)\b|\bXX" + r"X\b")
    found = []
    for path in tree(TEXT):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if absolute.search(line) or unfinished.search(line) or climbs(path, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def climbs(path: Path, line: str) -> bool:
    """Whether the line has a relative path that leaves the checkout."""
    depth = len(path.relative_to(ROOT).parts) - 1
    return any(match.group().count("../") > depth for match in re.finditer(r"(?:\.\./)+(?=\w)", line))
