"""What tests of several rooms share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pulled() -> Callable[[str], Path]:
    """`pulled("smollm2-135m")` is the folder of that checkpoint in the user's cache; it is pulled if it is absent."""
    from regard.hf.checkpoints import pull

    return lambda name: pull(name)
