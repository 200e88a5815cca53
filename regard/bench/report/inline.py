"""SVG charts made fit to stand inside a page: named for readers, free to scale, their ids apart."""

import html
import re

_ID = r"(?:clip|gradient_)\d+"


def inline(svg: str, *, key: str, label: str) -> str:
    """The chart as an element of a page.

    `key` makes its ids its own, since a page has many charts and each counts its ids from zero; `label` is what a
    screen reader says in its stead. The chart keeps its proportions and grows no wider than it was drawn.
    """
    opening = re.match(r'<svg [^>]*?width="(?P<width>[\d.]+)" height="[\d.]+" (?P<box>viewBox="[\d. -]+")[^>]*>', svg)
    if opening is None:
        raise ValueError("The chart isn't SVG with a size and a viewBox, as vl-convert writes it.")
    body = svg[opening.end() :]
    body = re.sub(rf'(\bid=")({_ID})(")', rf"\g<1>{key}-\g<2>\g<3>", body)
    body = re.sub(rf"(url\(#)({_ID})(\))", rf"\g<1>{key}-\g<2>\g<3>", body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {opening["box"]} '
        f'style="max-width:{opening["width"]}px" role="img" aria-label="{html.escape(label)}">{body}'
    )
