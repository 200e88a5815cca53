"""Seeing recurrences as they are called."""

from __future__ import annotations

from threading import Thread

import torch

from regard.ops import recur
from regard.ops.recurrence import watched
from regard.ops.recurrence.watch import WATCHERS

X = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))


def test_what_is_called_inside_is_seen_and_nothing_after() -> None:
    with watched() as calls:
        plain = recur(X, X, X)
        kept = recur(X, X, X, decay=-0.5, normalise="sum", keep=True)
        with watched() as inner:
            recur(X, X, X)
    recur(X, X, X)
    assert [call.settings["decay"] for call in calls] == [None, -0.5, None]
    assert calls[0].out is plain
    assert calls[1].out is kept
    assert calls[0].q is X
    assert len(inner) == 1
    assert not WATCHERS


def test_an_error_ends_it_too() -> None:
    try:
        with watched():
            raise KeyError
    except KeyError:
        pass
    assert not WATCHERS


def test_another_thread_is_not_seen() -> None:
    with watched() as calls:
        thread = Thread(target=lambda: recur(X, X, X))
        thread.start()
        thread.join()
    assert calls == []


def test_being_watched_changes_nothing() -> None:
    with watched():
        seen = recur(X, X, X, decay=-0.1)
    torch.testing.assert_close(seen, recur(X, X, X, decay=-0.1), rtol=0, atol=0)
