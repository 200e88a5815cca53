"""Runs the checks that a spec asks for, and says what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from regard.errors import RegardError
from regard.mechanisms import Layer, Slot
from regard.testing.checks import CHECKS, Check
from regard.testing.failed import Failed
from regard.testing.subject import Subject, subjects


class ConformanceError(RegardError, AssertionError):
    """A mechanism that does not do what it claims; the text has the mechanism, the check and the numbers."""


@dataclass(frozen=True)
class Outcome:
    """One check of one subject; `problem` is empty where it held."""

    subject: str
    check: str
    problem: str = ""


def check(
    given: str | type[Slot] | Layer,
    *,
    only: Iterable[str] | None = None,
    progress: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Hold a mechanism to its spec: its id, its class, or a layer made of your own parts.

    Every variant that the spec names is checked besides the defaults. `only` takes the names of checks; `progress` is
    called after each one.

    Raises: ConformanceError with every claim that did not hold; ValueError for a check that does not exist.
    """
    wanted = None if only is None else set(only)
    if wanted is not None and (unknown := wanted - set(CHECKS)):
        raise ValueError(f"There is no check {', '.join(sorted(unknown))}; checks are {', '.join(CHECKS)}.")
    found: list[Outcome] = []
    for subject in subjects(given):
        for one in checks(subject):
            if wanted is None or one.name in wanted:
                found.append(run(subject, one))
                if progress is not None:
                    progress(found[-1])
    if failed := [outcome for outcome in found if outcome.problem]:
        lines = [f"{outcome.subject} · {outcome.check}: {outcome.problem}" for outcome in failed]
        raise ConformanceError(f"{len(failed)} of {len(found)} checks did not hold:\n" + "\n".join(lines))
    return found


def checks(subject: Subject) -> list[Check]:
    """The checks that a subject's spec asks for."""
    return [one for one in CHECKS.values() if one.applies(subject)]


def run(subject: Subject, one: Check) -> Outcome:
    """Run one check; what it raises, or what the mechanism raises in it, is the problem."""
    try:
        one.run(subject)
    except Failed as failed:
        return Outcome(subject.label, one.name, str(failed))
    except Exception as error:  # whatever a stranger's mechanism raises is its failure, not the suite's
        return Outcome(subject.label, one.name, f"{type(error).__name__}: {error}")
    return Outcome(subject.label, one.name)
