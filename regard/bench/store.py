"""compare.json: written whole or not at all, and read back to go on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from regard.bench.report.files import write_bytes
from regard.errors import RegardError


def write(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON; a run that is cut short leaves the file as it was.

    Raises: RegardError where the folder can't be made or written.
    """
    text = json.dumps(_plain(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_bytes(path, text.encode())
    except OSError as error:
        raise RegardError(f"{path} can't be written: {error.strerror or error}.") from error


def writable(path: Path) -> None:
    """Find out before anything is measured whether a file can be written; nothing is made.

    Raises: RegardError where it can't.
    """
    if path.is_dir():
        raise RegardError(f"{path} can't be written: it is a folder.")
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise RegardError(f"{path} can't be written: {folder} is a file, not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RegardError(f"{path} can't be written: {folder} may not be written.")


def read(path: Path) -> dict[str, Any]:
    """Read a result back.

    Raises: RegardError where there is none, or it is not one of ours.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegardError(f"There is nothing to resume: no {path}. Type the command without --resume.") from None
    except (OSError, ValueError) as error:
        raise RegardError(f"{path} can't be read ({error}). Type the command without --resume.") from error
    if not _is_ours(found):
        raise RegardError(f"{path} is not a result of regard compare. Type the command without --resume.")
    return found


def _is_ours(found: Any) -> bool:
    if not isinstance(found, dict) or found.get("schema") != 1 or not isinstance(found.get("rows"), list):
        return False
    parts = (found.get(part, {}) for part in ("model", "text", "settings"))
    listed = [found["rows"], found.get("stream", [])]
    return all(isinstance(part, dict) for part in parts) and all(
        isinstance(rows, list) and all(isinstance(row, dict) and "label" in row for row in rows) for rows in listed
    )


def _plain(value: Any) -> Any:
    """The value with numbers that JSON does not have (NaN, infinities) as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
