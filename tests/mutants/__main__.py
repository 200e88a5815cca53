"""`make mutants`: seed each fault into a copy of the package and ask the tests; every one must be caught."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from tests.mutants.fault import Fault, misfits
from tests.mutants.runner import prepare, run

WORKERS = 2


def rooms() -> dict[str, list[Fault]]:
    """The faults of every module of this package that has any."""
    names = [module.name for module in iter_modules([str(Path(__file__).parent)])]
    kept = [name for name in names if name not in ("__main__", "plugin") and not name.startswith("test_")]
    modules = {name: import_module(f"tests.mutants.{name}") for name in kept}
    return {name: module.FAULTS for name, module in modules.items() if hasattr(module, "FAULTS")}


def main(wanted: list[str]) -> int:
    """Run the faults of the wanted rooms, all by default; 1 where one survives or can't be tried."""
    found = rooms()
    if unknown := set(wanted) - set(found):
        print(f"Unknown room {', '.join(sorted(unknown))}; rooms are {', '.join(found)}.", file=sys.stderr)
        return 2
    faults = [fault for room in wanted or found for fault in found[room]]
    if wrong := misfits(faults):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    prepare()
    with ThreadPoolExecutor(WORKERS) as pool:
        if not _sound(faults, pool):
            return 1
        caught = 0
        for fault, verdict in zip(faults, pool.map(lambda fault: run(fault, fault.tests), faults), strict=True):
            caught += verdict.kind == "caught"
            place = fault.file.removeprefix("regard/")
            by = f"  ({verdict.by})" if verdict.by else ""
            print(f"{verdict.kind:8}  {verdict.seconds:3.0f} s  {place:30}  {fault.what}{by}", flush=True)
    print(f"{len(faults)} faults, {caught} caught, {len(faults) - caught} not caught")
    return 0 if caught == len(faults) else 1


def _sound(faults: list[Fault], pool: ThreadPoolExecutor) -> bool:
    """Whether the tests that faults name pass without any fault; a test that fails anyway catches nothing."""
    paths = sorted({path for fault in faults for path in fault.paths})
    print(f"Running {len(paths)} files of tests without a fault ...", flush=True)
    for path, verdict in zip(paths, pool.map(lambda path: run(None, (path,)), paths), strict=True):
        if verdict.kind != "SURVIVED":
            print(f"{path} fails without any fault: {verdict.by}", file=sys.stderr)
            return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
