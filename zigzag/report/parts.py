"""What every part of the page is made of."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

SHORT = {"forward": "fwd", "forward+backward": "fwd+bwd"}
"""Directions where there is little room."""


class Section(NamedTuple):
    """A heading, what to know before one reads on (HTML), and the content (HTML); nothing is shown without content."""

    title: str
    text: str
    content: str


def table(names: Sequence[str], lines: Sequence[Sequence[str]], *, text: int) -> str:
    """A table of plain text; the first ``text`` columns are words, the others numbers."""
    head = cells("th", [html.escape(name) for name in names], text)
    body = "".join(f"<tr>{cells('td', [html.escape(value) for value in line], text)}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>' if lines else ""


def cells(tag: str, values: Sequence[str], text: int = 0) -> str:
    """Cells of a row, from HTML; the first ``text`` of them are words."""
    kinds = [' class="text"' if i < text else "" for i in range(len(values))]
    return "".join(f"<{tag}{kind}>{value}</{tag}>" for kind, value in zip(kinds, values, strict=True))
