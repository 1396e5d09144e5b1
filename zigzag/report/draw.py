"""Figures as SVG text whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec

from zigzag.bench.workload import COMMUTED, COMPILED, CUDA, EAGER, FLOOR, HOPPER, OURS, SIDES, TRITON

# Matplotlib wants real colours while it draws: each stands for a variable of the page until the SVG is written.
_VARIABLES = {
    "#010101": "ink",
    "#020202": "muted",
    "#030303": "line",
    "#040404": OURS,
    "#050505": EAGER,
    "#060606": COMPILED,
    "#070707": COMMUTED,
    "#080808": FLOOR,
    "#090909": "panel",
    "#0a0a0a": "second",
    "#0b0b0b": "third",
    "#0c0c0c": "fourth",
    "#0d0d0d": "fifth",
    "#0e0e0e": TRITON,
    "#0f0f0f": CUDA,
    "#101010": HOPPER,
}
COLOUR = {name: colour for colour, name in _VARIABLES.items()}

LABELS = {side: side for side in SIDES}
"""What the sides are called."""


_Arguments = ParamSpec("_Arguments")
_on_phone: ContextVar[bool] = ContextVar("_on_phone", default=False)
_WIDTH, _PHONE = 8.0, 4.6
"""Inches: at these widths letters have the size of the page's own."""
_LONG = 18
"""Letters of a label that leave room for two columns of a legend on a phone."""


def responsive(plot: Callable[_Arguments, str]) -> Callable[_Arguments, str]:
    """Draw a plot twice, for wide screens and for phones; the page shows one of them."""

    @wraps(plot)
    def both(*args: _Arguments.args, **options: _Arguments.kwargs) -> str:
        wide = plot(*args, **options)
        if not wide:
            return ""
        token = _on_phone.set(True)
        try:
            narrow = plot(*args, **options)
        finally:
            _on_phone.reset(token)
        return f'<div class="broad">{wide}</div><div class="narrow">{narrow}</div>'

    return both


def figure_of(height: float = 3.6, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes (one of them; or all, in a row or, on a phone, in a column), without what distracts."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    ink, muted, line = COLOUR["ink"], COLOUR["muted"], COLOUR["line"]
    with mpl.rc_context({"font.size": 10}):
        if on_phone():
            figure = Figure(figsize=(_PHONE, height * columns), layout="constrained")
            axes = figure.subplots(columns, 1, squeeze=False)[:, 0]
        else:
            figure = Figure(figsize=(_WIDTH, height), layout="constrained")
            axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.tick_params(colors=muted, labelcolor=muted, length=0)
        axis.xaxis.label.set_color(ink)
        axis.yaxis.label.set_color(ink)
        axis.title.set_color(ink)
        axis.grid(color=line, linewidth=0.8)
        axis.set_axisbelow(True)
        for name, spine in axis.spines.items():
            spine.set_color(line)
            spine.set_visible(name in ("left", "bottom"))
    return figure, axes if columns > 1 else axes[0]


def legend(axis: Any, **options: Any) -> None:
    """The legend inside an axis, without a frame."""
    for text in axis.legend(frameon=False, **options).get_texts():
        text.set_color(COLOUR["ink"])


def legend_above(figure: Any, axis: Any, columns: int) -> None:
    """The legend of an axis above the figure, in so many columns; on a phone, in no more than there is room for."""
    handles, labels = axis.get_legend_handles_labels()
    room = 3 if max(map(len, labels)) < _LONG else 2
    options = {"loc": "outside upper left", "ncols": min(columns, room) if on_phone() else columns, "fontsize": 9}
    legend(figure, handles=handles, labels=labels, columnspacing=1.2, handlelength=1.4, **options)


def on_phone() -> bool:
    """Whether what is drawn is for a phone."""
    return _on_phone.get()


def svg(figure: Any, name: str) -> str:
    """The figure as an SVG element without size, with text as text, and with the page's colours."""
    import matplotlib as mpl

    if on_phone():
        for axis in figure.axes:
            axis.set_xlabel(textwrap.fill(axis.get_xlabel(), 32))
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{name} {on_phone()}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', rf'\1 role="img" aria-label="{name}"', text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(r"font: (\d+\w*px|[\d.]+px) [^;\"]*", r"font: \1 var(--font)", text)


def round_ticks(axis: Any, unit: str = "") -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, or at the powers alone where they are many."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    many = high / low > (30 if on_phone() else 3e3)
    axis.set_major_locator(LogLocator(10, (1.0,) if many else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
