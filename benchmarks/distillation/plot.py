"""The tables as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks.distillation.summary import NOISE, Line
from benchmarks.distillation.tables import ALONE, HONEST, TEACHER
from edgekd.report.charts import EXPORTED, GRID, INK, MUTED

ROW_INCHES, PANEL_INCHES = 0.22, 4.6


def draw(tables: Mapping[str, Sequence[Line]], file: Path) -> None:
    """A panel for each table by its title: a dot for each seed or speaker, the mean ± sd of each row.

    The student alone is a line through all rows, and the teacher a dashed one. A gain beyond noise is green.
    """
    matplotlib.use("svg")
    from matplotlib import pyplot

    tallest = max(len(made) for made in tables.values())
    with pyplot.rc_context({"svg.hashsalt": "edgekd", "svg.fonttype": "none", "font.family": "sans-serif"}):
        size = (PANEL_INCHES * len(tables), ROW_INCHES * tallest + 0.8)
        figure, panels = pyplot.subplots(1, len(tables), figsize=size, squeeze=False, layout="constrained")
        for axes, (title, made) in zip(panels[0], tables.items(), strict=True):
            _panel(axes, title, [line for line in made if line.row not in (TEACHER, HONEST)], made)
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _panel(axes, title: str, rows: Sequence[Line], made: Sequence[Line]) -> None:  # type: ignore[no-untyped-def]
    for line in made:
        if line.row in (TEACHER, ALONE):
            axes.axvline(line.mean, color=MUTED, linewidth=1, linestyle="--" if line.row == TEACHER else "-")
    for position, line in enumerate(rows):
        beyond = line.gain is not None and line.gain.p < NOISE and line.gain.mean > 0
        colour = EXPORTED if beyond else MUTED
        axes.plot(list(line.units.values()), [position] * len(line.units), ".", color=GRID, zorder=1)
        axes.errorbar(line.mean, position, xerr=line.sd, color=colour, marker="o", markersize=4, capsize=2)
    axes.set_yticks(range(len(rows)), [line.row for line in rows], fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, color=INK, loc="left", fontweight="bold")
    axes.set_xlabel("accuracy, %", fontsize=8, color=INK)
    axes.tick_params(length=0, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
