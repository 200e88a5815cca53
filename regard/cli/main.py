"""The entry point: runs a command and turns what a person can mend into one line and exit code 2."""

import os
import sys
import traceback
from collections.abc import Sequence

from regard.errors import MissingExtra, RegardError

# Import name of each optional package, and the extra that brings it.
EXTRAS = {
    "click": "cli",
    "rich": "cli",
    "altair": "plot",
    "vl_convert": "plot",
    "jinja2": "viewer",
    "transformers": "hf",
    "safetensors": "hf",
    "gguf": "hf",
    "onnx": "hf",
    "tqdm": "hf",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `regard` with these arguments (the process's own by default) and return its exit code.

    0 is success, 2 a mistake that a person can mend, 130 an interrupt. Anything else that is raised is a fault of
    regard and keeps its traceback. `REGARD_DEBUG=1` shows the traceback of a mistake too.
    """
    try:
        # Imported here because the package is optional: its absence is told like any other mistake.
        from regard.cli.group import run

        return run(arguments)
    except RegardError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRAS:
            raise
        extra = EXTRAS[name]
        return _refuse(str(MissingExtra("The command line" if extra == "cli" else f"The package {name!r}", extra)))
    except OSError as error:
        # A full disk, an unreadable path, a refused connection: the system's own words say it.
        said = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
        return _refuse(said)
    except KeyboardInterrupt:
        return _say("interrupted", code=130)


def _refuse(text: str) -> int:
    if os.environ.get("REGARD_DEBUG") == "1":
        traceback.print_exc()
    return _say(text, code=2)


def _say(text: str, *, code: int) -> int:
    print("regard:", " ".join(text.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
