"""Every mechanism of the package keeps every claim of its spec."""

from __future__ import annotations

import pytest

import regard
from regard.testing import Subject, checks, run, subjects
from regard.testing.checks import Check

CASES = [(subject, check) for name in regard.mechanisms() for subject in subjects(name) for check in checks(subject)]


@pytest.mark.parametrize(("subject", "check"), CASES, ids=[f"{subject.label}-{check.name}" for subject, check in CASES])
def test_conformance(subject: Subject, check: Check) -> None:
    outcome = run(subject, check)
    assert not outcome.problem, f"{outcome.subject} · {outcome.check}: {outcome.problem}"
