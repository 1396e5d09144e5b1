"""The report: one HTML file with everything in it, readable without a network, in light and in dark."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zigzag.bench import plots
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.figures import COLUMNS, Figure
from zigzag.bench.rows import Machine, Row
from zigzag.bench.settings import ALLOCATOR
from zigzag.bench.sweep import Point
from zigzag.bench.workload import FLOOR, OURS

_STYLE = """
:root { color-scheme: light dark; --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --paper: #f6f7f9; --panel: #ffffff; --ink: #15191f; --muted: #5c6672; --line: #dfe3e8;
  --good: #0a7d4b; --bad: #c0342b;
  --zigzag: #0f766e; --eager: #d97706; --compiled: #9333ea; --commuted: #2563eb; --floor: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #0e1116; --panel: #171b22; --ink: #e8ebef; --muted: #98a2ae;
  --line: #2b323c; --good: #3ecf8e; --bad: #ff7a70; --zigzag: #2dd4bf; --eager: #fbb140; --compiled: #c084fc;
  --commuted: #7aa8ff; --floor: #9aa3af; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--font); }
main { max-width: 1080px; margin: 0 auto; padding: 48px 24px 80px; }
h1 { font-size: 34px; line-height: 1.15; margin: 0 0 8px; letter-spacing: -0.02em; }
h2 { font-size: 21px; margin: 56px 0 6px; letter-spacing: -0.01em; }
p { margin: 6px 0 14px; max-width: 76ch; } .quiet { color: var(--muted); } .wide { max-width: none; }
code { font: 0.88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; padding: 20px;
  overflow-x: auto; }
.panel svg { display: block; width: 100%; height: auto; min-width: 560px; }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px; margin-top: 28px; }
.pictures figure { margin: 0; } .pictures img { display: block; width: 100%; border-radius: 12px; }
figcaption { color: var(--muted); font-size: 14px; margin-top: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--muted); font-weight: 500; padding: 6px 10px;
  border-bottom: 1px solid var(--line); }
td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; } th.text, td.text { text-align: left; white-space: normal; }
td.ours { font-weight: 650; } .good { color: var(--good); } .bad { color: var(--bad); font-weight: 650; }
.banner { border-left: 4px solid var(--bad); padding: 10px 16px; background: var(--panel); margin: 20px 0; }
@media (max-width: 720px) { .pictures { grid-template-columns: 1fr; } main { padding: 28px 16px 48px; } }
"""


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        machine: where it was measured.
        command: how to measure it again.
        rows: the cases.
        figures: the ratios that have targets.
        points: the sweeps; empty for a quick run.
        ceilings: of the roofline.
        pictures: caption and data URL.
        warnings: sentences for the top of the page.
    """

    machine: Machine
    command: str
    rows: Sequence[Row]
    figures: Sequence[Figure]
    points: Sequence[Point]
    ceilings: Ceilings
    pictures: Sequence[tuple[str, str]]
    warnings: Sequence[str]


def write(path: Path, report: Report) -> None:
    """Write the page."""
    path.write_text(_page(report), encoding="utf-8")


def _page(report: Report) -> str:
    sections = [
        (
            "The figures",
            "Each is a ratio, so that it carries over from one machine to the next. Ours is checked against float64 "
            "before it is timed; the target is what the design asks for.",
            _figure_table(report.figures),
        ),
        (
            "How many times faster than stock PyTorch",
            "Paired runs of one process, interleaved; medians. <b>eager</b> is the paper's equations as written, "
            "<b>commuted</b> the same operations without a kernel of ours, <b>compiled</b> "
            "<code>torch.compile</code> of eager.",
            plots.speedups(report.rows),
        ),
        (
            "Against what nobody can leave out",
            "The floor is the fusion (and lateral) convolutions alone for the neck, and moving the bytes for an "
            "operation. Streaks span the 20th to the 80th percentile.",
            plots.over_floor(report.rows, _targets(report.figures)),
        ),
        (
            "Roofline",
            "Ceilings measured in the same run: copies and sums of the largest buffer (solid) and of one that stays in "
            "cache (dashed), and a matrix product or a convolution (the faster). Flops and bytes are those that the "
            "work cannot do without, for both sides: what eager does beyond them counts as time only.",
            plots.roofline(report.rows, report.ceilings),
        ),
        (
            "Time against image size",
            "The forward pass of the neck grows with the pixels of the image, as its convolutions do; what is left at "
            "no pixels is reading the weights.",
            plots.against_size(report.points),
        ),
        (
            "Time against the grids",
            "A full-resolution convolution per grid is what the literal equation pays. Ours reads the map once, "
            "whatever the grids: K and the number of grids enter by small terms only.",
            plots.against_grids(report.points),
        ),
        (
            "Memory",
            "What autograd keeps between the forward and the backward pass of the neck, counted by distinct storage "
            "without the parameters, and by how much the process grows in a training step.",
            plots.memory(report.rows),
        ),
        ("All rows", _reading(), _row_table(report.rows)),
    ]
    body = [
        "<h1>zigzag bench</h1>",
        f'<p class="quiet wide">{_machine(report.machine)}<br><code>{html.escape(report.command)}</code></p>',
        *(f'<div class="banner">{html.escape(warning)}</div>' for warning in report.warnings),
        _pictures(report.pictures),
        *(_section(title, text, content) for title, text, content in sections if content),
    ]
    content = "\n".join(body)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>zigzag bench</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>\n{content}\n</main></body></html>\n"
    )


def _machine(machine: Machine) -> str:
    parts = [
        f"zigzag {machine.zigzag} {machine.commit}",
        f"torch {machine.torch}",
        f"{machine.cpu}, {machine.threads} of {machine.cores} cores",
        machine.date.replace("T", " ").removesuffix("+00:00") + " UTC",
    ]
    return " · ".join(html.escape(part.strip()) for part in parts)


def _reading() -> str:
    held = ", ".join(f"<code>{name}={value}</code>" for name, value in ALLOCATOR.items())
    return (
        "Medians with the 20th and 80th percentile. Error ratio: error against float64 over stock PyTorch's in the "
        "same dtype; above 2 a result is WRONG and gets no time. Roofline: least time under the ceilings / median; "
        f"above 100 % means that data came from a cache. The allocator is held for all sides by {held}."
    )


def _section(title: str, text: str, content: str) -> str:
    return f'<h2>{title}</h2><p class="quiet">{text}</p><div class="panel">{content}</div>'


def _pictures(pictures: Sequence[tuple[str, str]]) -> str:
    shown = "".join(
        f'<figure><img src="{uri}" alt=""><figcaption>{caption}</figcaption></figure>' for caption, uri in pictures
    )
    return f'<div class="pictures">{shown}</div>'


def _targets(figures: Sequence[Figure]) -> dict[tuple[str, str], float]:
    return {figure.over_floor_of: figure.target for figure in figures if figure.over_floor_of is not None}


def _figure_table(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    sides = [side for side in COLUMNS if any(side in figure.values for figure in figures)]
    head = _cells("th", ["what", "region kernel", "target", *(plots.LABELS[side] for side in sides)], text=1)
    lines = []
    for figure in figures:
        kernel = f"{figure.kernel}×{figure.kernel}" if figure.kernel else ""
        cells = [f'<td class="text">{html.escape(figure.what)}</td><td>{kernel}</td><td>≤ {figure.target:g}</td>']
        for side in sides:
            value = figure.values.get(side)
            mark = ("ours good" if figure.reached else "ours bad") if side == OURS else ""
            cells.append(f'<td class="{mark}">{"–" if value is None else f"{value:.3g}"}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _row_table(rows: Sequence[Row]) -> str:
    names = [
        "case",
        "direction",
        "side",
        "ms",
        "p20 – p80",
        "runs",
        "/ floor",
        "zigzag faster",
        "error ratio",
        "roofline",
    ]
    lines = []
    for row in rows:
        kernel = f" {row.kernel}×{row.kernel}" if row.kernel else ""
        title = html.escape(f"{row.shape} · {row.reproduce}")
        start = [f'<td class="text" title="{title}">{row.case}{kernel}</td>', f"<td>{row.direction}</td>"]
        ours = ' class="ours"' if row.backend == OURS else ""
        start.append(f"<td{ours}>{plots.LABELS[row.backend]}</td>")
        if row.status != "ok":
            note = f'<td class="text bad" colspan="7">{row.status}: {html.escape(row.note)}</td>'
            lines.append(f"<tr>{''.join(start)}{note}</tr>")
            continue
        speedup = "" if row.speedup is None or row.backend in (OURS, FLOOR) else f"{row.speedup:.3g}×"
        numbers = [
            f"{1e3 * (row.median or 0):.4g}",
            f"{1e3 * (row.p20 or 0):.4g} – {1e3 * (row.p80 or 0):.4g}",
            str(row.runs),
            "" if row.over_floor is None else f"{row.over_floor:.3g}",
            f"{speedup} (noise)" if speedup and row.noise else speedup,
            "" if row.error_ratio is None else f"{row.error_ratio:.2f}",
            "" if row.roofline is None else f"{row.roofline:.0%}",
        ]
        lines.append(f"<tr>{''.join(start)}{_cells('td', numbers)}</tr>")
    return f"<table><tr>{_cells('th', names, text=1)}</tr>{''.join(lines)}</table>"


def _cells(tag: str, values: Sequence[str], text: int = 0) -> str:
    classes = [' class="text"' if i < text else "" for i in range(len(values))]
    return "".join(f"<{tag}{kind}>{value}</{tag}>" for kind, value in zip(classes, values, strict=True))
