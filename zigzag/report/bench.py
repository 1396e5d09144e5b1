"""The report's part about a benchmark: figures, speedups, rooflines, sweeps, all rows."""

from __future__ import annotations

import html
from collections.abc import Sequence

from zigzag.bench.figures import COLUMNS, Figure, figures
from zigzag.bench.rows import Row, Run
from zigzag.bench.session import Session
from zigzag.bench.settings import ALLOCATOR
from zigzag.bench.timing import FEWEST
from zigzag.bench.workload import FLOOR, OURS
from zigzag.report import plots
from zigzag.report.draw import LABELS
from zigzag.report.parts import SHORT, Section, cells


def sections(run: Run, session: Session) -> list[Section]:
    """What the page says about a run of the benchmark."""
    cases, points = run.rows[: session.cases], session.sweeps(run.rows)
    found, shown = figures(cases), _shown(cases)
    return [
        Section(
            "The figures",
            "Each is a ratio, so that it carries over from one machine to the next. Ours is checked against float64 "
            "before it is timed; the target is what the design asks for. The last table says how often each was timed.",
            _figure_table(found),
        ),
        Section(
            "How many times faster than stock PyTorch",
            "Paired runs of one process, interleaved; medians. <b>eager</b> is the paper's equations as written, "
            "<b>commuted</b> the same operations without a kernel of ours, <b>compiled</b> "
            "<code>torch.compile</code> of eager.",
            plots.speedups(shown),
        ),
        Section(
            "Against what nobody can leave out",
            "The floor is the fusion (and lateral) convolutions alone for the neck, and moving the bytes for an "
            "operation. Streaks span the 20th to the 80th percentile; an open dot has none, being of fewer than "
            f"{FEWEST} runs.",
            plots.over_floor(shown, _targets(found)),
        ),
        Section(
            "Roofline",
            "Ceilings measured in the same run, caches emptied before each copy and sum: of the largest buffer (solid) "
            "and of the smallest (dashed), where the call itself counts; and a matrix product or a convolution (the "
            "faster). Flops and bytes are those that the work cannot do without, for both sides: what eager does "
            "beyond them counts as time only.",
            plots.roofline(shown, session.ceilings[shown[0].dtype]),
        ),
        Section(
            "Time against image size",
            "The forward pass of the neck grows with the pixels of the image, as its convolutions do; what is left at "
            "no pixels is reading the weights.",
            plots.against_size(points),
        ),
        Section(
            "Time against the grids",
            "A full-resolution convolution per grid is what the literal equation pays. Ours reads the map once, "
            "whatever the grids: K and the number of grids enter by small terms only.",
            plots.against_grids(points),
        ),
        Section(
            "Memory",
            "What autograd keeps between the forward and the backward pass of the neck, counted by distinct storage "
            "without the parameters, and by how much the process grows in a training step.",
            plots.memory(shown),
        ),
        Section("All rows", _reading(), _row_table(cases)),
    ]


def _shown(rows: Sequence[Row]) -> list[Row]:
    """The rows of the pictures: those of the first row's dtype, layout and device. The table has all of them."""
    first = rows[0]
    return [row for row in rows if (row.dtype, row.layout, row.device) == (first.dtype, first.layout, first.device)]


def _reading() -> str:
    held = ", ".join(f"<code>{name}={value}</code>" for name, value in ALLOCATOR.items())
    return (
        f"Medians with the 20th and 80th percentile, or the number of the runs where these are fewer than {FEWEST}. "
        "A case opens to its shape and its command. Error ratio: error against float64 over "
        "stock PyTorch's in the same dtype; above 2 a result is WRONG and gets no time. Roofline: "
        "least time under the ceilings / median; above 100 % means that data came from a cache. The "
        f"allocator is held for all sides by {held}."
    )


def _targets(figures: Sequence[Figure]) -> dict[tuple[str, str], float]:
    return {each.over_floor_of: each.target for each in figures if each.over_floor_of and each.target is not None}


def _figure_table(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    sides = [side for side in COLUMNS if any(side in figure.values for figure in figures)]
    head = cells("th", ["what", "region kernel", "target", *(LABELS[side] for side in sides)], text=1)
    lines = []
    for figure in figures:
        kernel = f"{figure.kernel}×{figure.kernel}" if figure.kernel else ""
        line = [f'<td class="text">{html.escape(figure.what)}</td><td>{kernel}</td><td>{figure.asked}</td>']
        for side in sides:
            value = figure.values.get(side)
            verdict = {True: " good", False: " bad", None: ""}[figure.reached]
            mark = f"ours{verdict}" if side == OURS else ""
            line.append(f'<td class="{mark}">{"–" if value is None else f"{value:.3g}"}</td>')
        lines.append(f"<tr>{''.join(line)}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


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
        more = f"{html.escape(row.shape)}<br><code>{html.escape(row.reproduce)}</code>"
        start = [
            f'<td class="text"><details><summary>{row.case}{kernel}</summary>{more}</details></td>',
            f"<td>{SHORT[row.direction]}</td>",
        ]
        ours = ' class="ours"' if row.backend == OURS else ""
        start.append(f"<td{ours}>{LABELS[row.backend]}</td>")
        if row.status != "ok":
            note = f'<td class="text bad" colspan="7">{row.status}: {html.escape(row.note)}</td>'
            lines.append(f"<tr>{''.join(start)}{note}</tr>")
            continue
        speedup = "" if row.speedup is None or row.backend in (OURS, FLOOR) else f"{row.speedup:.3g}×"
        numbers = [
            f"{1e3 * (row.median or 0):.4g}",
            row.few or f"{1e3 * (row.p20 or 0):.4g} – {1e3 * (row.p80 or 0):.4g}",
            str(row.runs),
            "" if row.over_floor is None else f"{row.over_floor:.3g}",
            f"{speedup} ({row.doubt})" if speedup and row.doubt else speedup,
            "" if row.error_ratio is None else f"{row.error_ratio:.2f}",
            "" if row.roofline is None else f"{row.roofline:.0%}",
        ]
        lines.append(f"<tr>{''.join(start)}{cells('td', numbers)}</tr>")
    head = cells("th", names, text=1)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
