"""The seeded faults themselves: each can be seeded, and a fault that can't is named."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tests.mutants.__main__ import rooms
from tests.mutants.fault import ROOT, misfits
from tests.mutants.runner import prepare, run


def test_every_fault_can_be_seeded():
    found = rooms()
    assert {"masks", "merge", "engines", "edits", "stations", "methods"} <= set(found)
    faults = [fault for room in found.values() for fault in room]
    assert misfits(faults) == []
    assert len(faults) >= 100
    assert max(Counter(fault.what for fault in faults).values()) == 1


def test_faults_that_cannot_be_seeded_are_named():
    fault = rooms()["merge"][0]
    assert misfits([fault]) == []
    (wrong,) = misfits([replace(fault, old="no such text")])
    assert wrong == f"{fault.what}: {fault.file} holds its text 0 times, not once: 'no such text'"
    assert "times, not once: 'a'" in misfits([replace(fault, old="a")])[0]
    assert misfits([replace(fault, new=fault.old)]) == [f"{fault.what}: it changes nothing"]
    assert misfits([replace(fault, tests=("-x",))]) == [f"{fault.what}: it names no tests"]
    assert misfits([replace(fault, tests=("tests/none.py::f",))]) == [f"{fault.what}: there is no tests/none.py"]
    assert misfits([replace(fault, file="regard/none.py")])[0].startswith(
        f"{fault.what}: regard/none.py holds its text 0"
    )


def test_seeding_changes_only_the_copy(tmp_path):
    fault = rooms()["merge"][0]
    before = (ROOT / fault.file).read_text(encoding="utf-8")
    (tmp_path / fault.file).parent.mkdir(parents=True)
    (tmp_path / fault.file).write_text(before, encoding="utf-8")
    fault.seed(tmp_path)
    assert (tmp_path / fault.file).read_text(encoding="utf-8") == before.replace(fault.old, fault.new) != before
    assert (ROOT / fault.file).read_text(encoding="utf-8") == before


def test_the_verdict_is_that_of_tests_on_the_copy(monkeypatch):
    for name in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")  # what prepare() sets is undone after the test
    prepare()
    caught = next(fault for fault in rooms()["merge"] if fault.what == "states of different shapes are merged")
    tests = ("tests/ops/test_merge.py", "-k", "differ_in_shape")
    verdict = run(caught, tests)
    assert (verdict.kind, verdict.by.partition("::")[2]) == ("caught", "test_states_that_differ_in_shape_are_named")
    assert run(None, tests).kind == "SURVIVED"
    for wrong in (replace(caught, new="if True then:"), replace(caught, new="raise ImportError\nif False:")):
        assert run(wrong, tests).kind == "BROKEN"
    assert run(None, ("tests/ops/test_merge.py::test_no_such",)).kind == "BROKEN"
    assert run(None, ("tests/ops/test_merge.py", "-k", "no_such")).kind == "BROKEN"
    died = replace(caught, new="import os; os.kill(os.getpid(), 9)\n    if False:")
    verdict = run(died, tests)
    assert (verdict.kind, verdict.by) == ("caught", "the process died")
