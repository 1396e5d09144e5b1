"""The report: one HTML file with all that a folder's measurements say, readable without a network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from zigzag.bench import rows, session, store
from zigzag.bench.files import whole
from zigzag.bench.rows import Machine
from zigzag.bench.settings import BenchError
from zigzag.profile import result as profiles
from zigzag.report import bench, history, profile, scaling
from zigzag.report.parts import Section
from zigzag.report.style import STYLE
from zigzag.scaling import result as scalings

NAME = "report.html"
ROWS, PROFILE, SCALING = "rows.json", "profile.json", "scaling.json"
"""What is read of a folder, besides the benchmark's session."""


def write(folder: Path, stored: Path | None = None) -> Path:
    """Write the page of a folder into it.

    Args:
        folder: with what `zigzag bench`, `profile` and `scale` have written, one or more of them.
        stored: folder of stored rows, for the history.

    Returns:
        The path of the page.

    Raises:
        BenchError: a file cannot be used, or there is none.
    """
    page = _Page()
    if (folder / ROWS).exists() and (folder / session.NAME).exists():
        run, own = rows.read(folder / ROWS), session.read(folder / session.NAME)
        page.begin(run.machine, own.command)
        page.warnings += own.warnings
        page.pictures = list(own.pictures)
        page.sections += bench.sections(run, own)
    if (folder / PROFILE).exists():
        profiled = profiles.read(folder / PROFILE)
        page.begin(profiled.machine, profiled.command)
        page.sections += profile.sections(profiled)
    if (folder / SCALING).exists():
        scaled = scalings.read(folder / SCALING)
        page.begin(scaled.machine, scaled.command)
        page.sections += scaling.sections(scaled)
    if stored is not None:
        page.sections.append(history.section(store.history(stored)))
    if not page.sections:
        raise BenchError(
            f"there is nothing to report in {str(folder)!r}: run zigzag bench, profile or scale --out {folder}"
        )
    with whole(folder / NAME) as temporary:
        temporary.write_text(page.text(), encoding="utf-8")
    return folder / NAME


class _Page:
    """What the page shows, as it comes together."""

    def __init__(self) -> None:
        self.origins: list[str] = []
        self.warnings: list[str] = []
        self.pictures: list[tuple[str, str]] = []
        self.sections: list[Section] = []

    def begin(self, machine: Machine, command: str) -> None:
        """Sections of one command follow."""
        self.origins.append(f"{_machine(machine)}<br><code>{html.escape(command)}</code>")

    def text(self) -> str:
        """The page whole."""
        shown = [section for section in self.sections if section.content]
        links = "".join(f'<a href="#s{i}">{section.title}</a>' for i, section in enumerate(shown))
        body = [
            "<h1>zigzag</h1>",
            *(f'<p class="quiet wide">{origin}</p>' for origin in self.origins),
            *(f'<div class="banner">{html.escape(warning)}</div>' for warning in self.warnings),
            f"<nav>{links}</nav>",
            _pictures(self.pictures),
            *(_section(i, section) for i, section in enumerate(shown)),
        ]
        content = "\n".join(body)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>zigzag</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head><body><main>\n{content}\n</main></body></html>\n"
        )


def _section(number: int, section: Section) -> str:
    heading = f'<h2 id="s{number}">{section.title}</h2>'
    return f'{heading}<p class="quiet">{section.text}</p><div class="panel">{section.content}</div>'


def _pictures(pictures: Sequence[tuple[str, str]]) -> str:
    shown = "".join(
        f'<figure><img src="{uri}" alt="{html.escape(caption)}"><figcaption>{caption}</figcaption></figure>'
        for caption, uri in pictures
    )
    return f'<div class="pictures">{shown}</div>' if shown else ""


def _machine(machine: Machine) -> str:
    processor = "" if machine.device == machine.cpu else f"{machine.device}, "
    parts = [
        f"zigzag {machine.zigzag} {machine.commit}",
        f"torch {machine.torch}",
        f"{processor}{machine.cpu}, {machine.isa}, {machine.threads} of {machine.cores} cores",
        machine.date.replace("T", " ").removesuffix("+00:00") + " UTC",
    ]
    return " · ".join(html.escape(part.strip()) for part in parts)
