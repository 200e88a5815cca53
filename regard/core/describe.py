"""What there is to say of a part, from its spec, its docstring and its constructor: for the screen and the pages."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass

from regard.core.spec import Limit, Source, Spec
from regard.errors import RegardError

FLAGS = ("causal", "bidirectional", "cross", "decode", "gqa", "padding", "packing")
WORDS = {
    "causal": "causal",
    "bidirectional": "bidirectional",
    "cross": "over another sequence",
    "decode": "step by step",
    "gqa": "grouped heads",
    "padding": "padding",
    "packing": "packed documents",
}
_LABELS = ("Shapes", "Raises", "Source", "Differs from the paper")


@dataclass(frozen=True)
class Setting:
    """One setting: its name, the types it takes, and its default as it is typed."""

    name: str
    kind: str
    default: str


@dataclass(frozen=True)
class Description:
    """A part in words. `parts` are the docstring's labelled paragraphs, such as "Shapes" and "Raises"."""

    name: str
    spec: Spec
    where: str
    says: str
    parts: dict[str, str]
    settings: tuple[Setting, ...]

    @property
    def supports(self) -> dict[str, bool]:
        """What a call may ask for, in words."""
        return {WORDS[flag]: getattr(self.spec, flag) for flag in FLAGS}

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The settings at which the part must equal an oracle."""
        return self.spec.limits

    @property
    def bibtex(self) -> str:
        """The source as a BibTeX entry."""
        return bibtex(self.spec.paper, self.spec.source)


def describe(kind: type) -> Description:
    """Everything there is to say of a mechanism or method.

    Raises: RegardError where a mechanism lacks its formula or its shapes, so that no page is made without them.
    """
    spec: Spec = kind.spec  # type: ignore[attr-defined]
    says, parts = _paragraphs(inspect.getdoc(kind) or "")
    name = f"{kind.__module__}.{kind.__qualname__}"
    if spec.slot != "method":
        missing = [
            what
            for what, there in (("formula in its spec", spec.formula), ("Shapes in its docstring", parts.get("Shapes")))
            if not there
        ]
        if missing:
            raise RegardError(f"{name} has no {' and no '.join(missing)}. Write it there.")
    return Description(kind.__name__, spec, name, says, parts, _settings(kind))


def power(exponent: float) -> str:
    """`1`, `N` or `N^e`."""
    return "1" if exponent == 0 else "N" if exponent == 1 else f"N^{exponent:g}"


def bibtex(key: str, source: Source) -> str:
    """A BibTeX entry: authors where they are known, the arXiv identifier where there is one."""
    arxiv = re.fullmatch(r"\d{4}\.\d{4,5}", source.locator)
    year = source.year or (2000 + int(source.locator[:2]) if arxiv else 0)
    fields = {"title": f"{{{source.title}}}", "author": source.authors}
    if arxiv:
        fields |= {"eprint": source.locator, "archivePrefix": "arXiv"}
    elif source.locator:
        fields["howpublished"] = source.locator
    if year:
        fields["year"] = str(year)
    body = "\n".join(f"  {name} = {{{value}}}," for name, value in fields.items() if value)
    return f"@misc{{{key},\n{body}\n}}"


def _paragraphs(doc: str) -> tuple[str, dict[str, str]]:
    """What stands before the first label, and the labelled paragraphs; `Label: text` may begin any line."""
    says: list[str] = []
    parts: dict[str, str] = {}
    label = ""
    for line in doc.splitlines():
        found = next((word for word in _LABELS if line.startswith((f"{word}:", f"{word} ("))), "")
        if found:
            label = found
            text = line[len(found) :]
            parts[label] = text.removeprefix(":").strip()
        elif not line.strip():
            label = ""
            says.append("")
        elif label:
            parts[label] += " " + line.strip()
        else:
            says.append(line.strip())
    text = re.split(r"\n{2,}", "\n".join(says).strip())
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in text), parts


def _settings(kind: type) -> tuple[Setting, ...]:
    found = []
    fields = {f.name: f for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY or name in fields:
            annotation = parameter.annotation
            written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
            default = "" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
            found.append(Setting(name, "" if written == "_empty" else written, default))
    return tuple(found)
