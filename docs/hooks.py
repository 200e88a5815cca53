"""Pages made while the documentation is built: one for each mechanism, from its spec, docstring and constructor."""

from __future__ import annotations

import html
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))

from regard.core.describe import Description, describe, power
from regard.measured import measured
from regard.mechanisms.walk import family_of, walk

FOLDER = "mechanisms"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation, a section for each family, before the pages on how things are measured."""
    families: dict[str, list[dict[str, str]]] = {}
    for name, kind in walk().items():
        families.setdefault(family_of(kind), []).append({name: f"{FOLDER}/{name}.md"})
    section = [f"{FOLDER}/index.md", *({family: pages} for family, pages in sorted(families.items()))]
    nav = list(config.nav or [])
    nav.insert(_place(nav), {"Mechanisms": section})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each mechanism and the table of all. Raises: RegardError where one lacks formula or shapes."""
    found = {name: describe(kind) for name, kind in walk().items()}
    files.append(File.generated(config, f"{FOLDER}/index.md", content=_index(found)))
    for name, one in found.items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=_page(one)))
    return files


def _place(nav: list) -> int:
    for place, entry in enumerate(nav):
        if "checkpoints.md" in (entry.values() if isinstance(entry, dict) else [entry]):
            return place
    return len(nav)


def _index(found: dict[str, Description]) -> str:
    rows = [
        "# Mechanisms",
        "",
        "Each is one class in one file, fills one slot of the attention layer or is a whole layer, and is held by the "
        "conformance suite to everything that stands here. `regard.create(NAME, dim=..., heads=...)` makes a layer.",
        "",
        "| mechanism | family | slot | supports | time | state | what it does |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in sorted(found.items(), key=lambda item: (_family(item[1]), item[0])):
        yes = ", ".join(word for word, there in one.supports.items() if there)
        cost = one.spec.cost
        rows.append(
            f"| [{name}]({name}.md) | {_family(one)} | {one.spec.slot} | {yes} | {power(cost.time)} | "
            f"{power(cost.state)} | {_text(one.spec.what)} |"
        )
    return "\n".join(rows) + "\n"


def _page(one: Description) -> str:
    spec = one.spec
    lines = [f"# {spec.id}", "", _text(one.says), "", "```text", spec.formula, "```", ""]
    for label in ("Shapes", "Raises", "Differs from the paper"):
        if label in one.parts:
            said = one.parts[label]
            said = said[:1].upper() + said[1:] if label.startswith("Differs") else said
            lines += [f"**{label}.** {_text(said)}", ""]
    if one.settings:
        lines += ["| setting | type | default |", "|---|---|---|"]
        lines += [f"| `{s.name}` | {_cell(s.kind)} | {_cell(s.default)} |" for s in one.settings] + [""]
    lines += ["| a call may ask for | |", "|---|---|"]
    lines += [f"| {word} | {'yes' if there else 'no, it is refused'} |" for word, there in one.supports.items()]
    lines += ["", f"Time grows as {power(spec.cost.time)} with the tokens, the state of decoding as "
              f"{power(spec.cost.state)}.", ""]  # fmt: skip
    if one.limits:
        lines += ["It equals, checked against an oracle that shares no code with it:", ""]
        lines += [f"- {_text(str(limit))}" for limit in one.limits] + [""]
    if told := measured(spec.id):
        lines += ["Measured:", "", *(f"- {_text(line)}" for line in told), ""]
    lines += [f"Where: `{one.where}`, a {spec.slot}", "", f"Source: {_text(str(spec.source))}", ""]
    return "\n".join([*lines, "```bibtex", one.bibtex, "```", ""])


def _family(one: Description) -> str:
    return one.where.split(".")[-3]


def _text(text: str) -> str:
    """Text from a docstring as Markdown: code in backticks stays, what could be read as markup does not."""
    pieces = text.split("`")
    for place in range(0, len(pieces), 2):
        plain = html.escape(pieces[place], quote=False)
        for sign in "*_[]|":
            plain = plain.replace(sign, f"\\{sign}")
        pieces[place] = plain
    return "`".join(piece if place % 2 == 0 else piece.replace("|", "\\|") for place, piece in enumerate(pieces))


def _cell(text: str) -> str:
    code = html.escape(text, quote=False).replace("|", "&#124;")
    return f"<code>{code}</code>" if text else ""
