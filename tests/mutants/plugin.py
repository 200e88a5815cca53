"""How the tests run on a copy with a fault: the same every time, and without shrinking what hypothesis finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, settings

settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("mutants")


def pytest_configure(config: pytest.Config) -> None:
    import regard

    found = Path(regard.__file__).resolve().parents[1]
    if found != Path.cwd().resolve():
        raise pytest.UsageError(f"The tests would run on {found}, not on the copy with the fault.")
