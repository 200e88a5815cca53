"""The ledger of papers: which are done, as which object, which are planned, and which are context only."""

import tomllib
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from regard.errors import RegardError

Kind = Literal["mechanism", "method", "measure", "recipe", "engine", "bench", "context"]
Status = Literal["done", "planned", "context"]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One entry: `where` is an importable object, `"planned"`, or `"context"` with a `reason`."""

    id: str
    title: str
    kind: Kind
    where: str
    reason: str = ""

    @property
    def status(self) -> Status:
        if self.where == "planned" or self.where == "context":
            return self.where
        return "done"


def papers() -> list[Paper]:
    """Every paper of the ledger, sorted by id.

    Raises: RegardError where this installation has no ledger.
    """
    return [Paper(**entry) for entry in tomllib.loads(_ledger().read_text(encoding="utf-8"))["paper"]]


def resolve(paper: Paper) -> object:
    """The object that `paper.where` names, as `package.module:name` or as a dotted path.

    Raises: ValueError for a paper that is planned or context, which has no object; ImportError for a path of which a
    part does not exist.
    """
    if paper.status != "done":
        raise ValueError(f"Paper {paper.id!r} is {paper.where!r}; only a paper that is done has an object.")
    module, colon, name = paper.where.partition(":")
    if colon:
        return _attributes(import_module(module), name.split("."), paper)
    parts = module.split(".")
    for cut in range(len(parts), 0, -1):
        prefix = ".".join(parts[:cut])
        try:
            found = import_module(prefix)
        except ModuleNotFoundError as missing:
            # A prefix that is an attribute, not a module, is expected; a missing dependency of a real module is not.
            if missing.name is None or not (prefix + ".").startswith(missing.name + "."):
                raise
        else:
            return _attributes(found, parts[cut:], paper)
    raise ImportError(f"Paper {paper.id!r}: no module in {paper.where!r} can be imported.")


def _attributes(found: object, names: list[str], paper: Paper) -> object:
    for name in names:
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ImportError(f"Paper {paper.id!r}: {paper.where!r} does not exist: {error}.") from error
    return found


def _ledger() -> Path | Traversable:
    # A wheel carries the ledger inside the package; a checkout, installed editable or not, keeps it beside the package.
    places = (files("regard") / "papers.toml", Path(__file__).resolve().parents[1] / "papers.toml")
    for place in places:
        if place.is_file():
            return place
    raise RegardError("papers.toml is missing from this installation. Type: pip install --force-reinstall regard")
