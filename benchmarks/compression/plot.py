"""The tables as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks.compression.rows import FLOAT, OTHERS
from benchmarks.compression.summary import FORMATS, Line
from edgekd.report.charts import COLOURS, EXPORTED, GRID, INK, MUTED

ROW_INCHES, WIDTHS = 0.22, (4.0, 2.0, 2.0)
COLOUR = {"tflite": EXPORTED, "onnx": COLOURS["compressed"]}


def draw(tables: Mapping[str, Sequence[Line]], file: Path) -> None:
    """For each table by its title: accuracy, a dot for each seed and the mean ± sd, then bytes, then times, as shares
    of the float student's file of the same format, which is a line. Other tools' rows are grey.
    """
    matplotlib.use("svg")
    from matplotlib import pyplot

    heights = [len(made) + 3 for made in tables.values()]
    with pyplot.rc_context({"svg.hashsalt": "edgekd", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, panels = pyplot.subplots(
            len(tables),
            len(WIDTHS),
            figsize=(sum(WIDTHS) + 2, ROW_INCHES * sum(heights)),
            squeeze=False,
            layout="constrained",
            sharey="row",
            width_ratios=WIDTHS,
            height_ratios=heights,
        )
        for axes, (title, made) in zip(panels, tables.items(), strict=True):
            _panels(axes, title, made)
        handles = [pyplot.Line2D([], [], color=COLOUR[name], marker="o", label=FORMATS[name]) for name in FORMATS]
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=8, frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _panels(axes, title: str, made: Sequence[Line]) -> None:  # type: ignore[no-untyped-def]
    others = {row.name for row in OTHERS}
    whole = next(line for line in made if line.row == FLOAT)
    for panel, words, at in zip(
        axes, ("accuracy, %", "bytes / float's", "time / float's"), (whole.mean(), 1, 1), strict=True
    ):
        panel.axvline(at, color=GRID, linewidth=1, zorder=0)
        panel.set_xlabel(words, fontsize=8, color=INK)
        panel.tick_params(length=0, labelsize=8)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    for position, line in enumerate(made):
        for shift, name in zip((-0.15, 0.15), FORMATS, strict=True):
            if name in line.accuracy:
                _marks(axes, position + shift, line, whole, name)
    axes[0].set_yticks(range(len(made)), [line.row for line in made], fontsize=8)
    for label, line in zip(axes[0].get_yticklabels(), made, strict=True):
        label.set_color(MUTED if line.row in others else INK)
    axes[0].invert_yaxis()
    axes[0].set_title(title, fontsize=9, color=INK, loc="left", fontweight="bold")


def _marks(axes, position: float, line: Line, whole: Line, name: str) -> None:  # type: ignore[no-untyped-def]
    accuracy, style = line.accuracy[name], {"color": COLOUR[name], "marker": "o", "markersize": 3}
    axes[0].plot(accuracy, [position] * len(accuracy), ".", color=GRID, zorder=1)
    sd = accuracy.std(ddof=1) if len(accuracy) > 1 else 0.0
    axes[0].errorbar(accuracy.mean(), position, xerr=sd, capsize=2, **style)
    axes[1].plot(line.bytes[name] / whole.bytes[name], position, **style)
    if name in line.times:
        ratio = line.times[name]
        error = [[ratio["value"] - ratio["low"]], [ratio["high"] - ratio["value"]]]
        axes[2].errorbar(ratio["value"], position, xerr=error, capsize=2, **style)
