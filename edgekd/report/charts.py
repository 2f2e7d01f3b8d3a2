"""The report's pictures, as SVG to put into a page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2733", "#5b6b7b", "#dfe5ec"
COLOURS = {
    "teacher": "#8a97a6",
    "student alone": "#a9c4e4",
    "student, float": "#4f86c6",
    "compressed": "#2f6aa8",
}
EXPORTED = "#1f9d6b"
ROWS = 3
"""Bars that a chart has room for without growing."""


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its value, and the value in words; error is (below, above) or None."""

    name: str
    value: float
    label: str
    error: tuple[float, float] | None = None


def bars(title: str, entries: Sequence[Bar], logarithmic: bool = False) -> str:
    """A horizontal bar chart, one bar a model, with the values written beside them."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "edgekd", "svg.fonttype": "none", "font.family": "sans-serif"}):
        rows = max(ROWS, len(entries))
        figure, axes = pyplot.subplots(figsize=(4.4, 2.0 * rows / ROWS))
        figure.subplots_adjust(left=0.27, right=0.98, top=0.84, bottom=0.04)
        positions = range(rows - 1, rows - 1 - len(entries), -1)
        colours = [COLOURS.get(entry.name, EXPORTED) for entry in entries]
        axes.barh(positions, [entry.value for entry in entries], color=colours, height=0.55)
        for position, entry in zip(positions, entries, strict=True):
            if entry.error:
                below, above = entry.error
                axes.errorbar(entry.value, position, xerr=[[below], [above]], color=INK, capsize=2, linewidth=1)
            axes.annotate(
                entry.label,
                (entry.value, position),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
            )
        axes.set_yticks(list(positions), [entry.name for entry in entries], fontsize=9, color=INK)
        axes.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold")
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(min(entry.value for entry in entries) / 4, max(entry.value for entry in entries) * 6)
        else:
            axes.set_xlim(0, max(entry.value for entry in entries) * 1.35 or 1)
        axes.set_ylim(-0.6, rows - 0.4)
        axes.xaxis.set_visible(False)
        axes.tick_params(length=0)
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        axes.spines["left"].set_color(GRID)
        return _svg(figure)


@dataclass(frozen=True)
class Dot:
    """A model by name: what it costs, how good it is, and whether it is on the Pareto front."""

    name: str
    cost: float
    score: float
    best: bool


def front(title: str, dots: Sequence[Dot]) -> str:
    """Score against cost, with the Pareto front as a line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "edgekd", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(4.4, 3.2), layout="constrained")
        line = sorted((dot.cost, dot.score) for dot in dots if dot.best)
        axes.plot(*zip(*line, strict=True), color=EXPORTED, linewidth=1.2, zorder=1)
        for dot in dots:
            axes.plot(dot.cost, dot.score, "o", color=EXPORTED if dot.best else MUTED, markersize=5)
            axes.annotate(
                dot.name, (dot.cost, dot.score), xytext=(5, -9), textcoords="offset points", fontsize=8, color=INK
            )
        axes.margins(x=0.22, y=0.18)
        axes.set_title(title, fontsize=10, color=INK, loc="left", fontweight="bold")
        axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        return _svg(figure)


def _svg(figure: "Figure") -> str:
    from matplotlib import pyplot

    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]
