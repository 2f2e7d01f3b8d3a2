"""The report as one page that needs nothing else."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgekd.compress.gains import GAINS
from edgekd.report.charts import Bar, Dot, bars, front
from edgekd.report.ladder import COSTS, UNITS
from edgekd.report.quality import quality_tables
from edgekd.tasks.metrics import TITLES, shown

READERS = {
    "tflite": "the flatbuffer schema",
    "onnx": "the protobuf schema",
    "ort": "the flatbuffer schema",
    "openvino": "its XML and binary, as ranges for activations,",
    "coreml": "its protobuf specification and weight file, as float16 where the program computes in it,",
}
"""How each format was read, independently of the runtime."""
SOURCES = {
    "int8": "the quantized program",
    "int8-weights": "the quantized program with float activations",
    "float16": "the float student",
    "float32": "the float student",
}
"""What a file of each precision is compared with."""
FLOAT, COMPRESSED = "student, float", "compressed"
NOT_KNOWN = "–"  # noqa: RUF001
"""What stands for a number that nobody knows, such as the size of a teacher that only answers."""
RUNNERS = {"coreml": "a reference interpreter of Core ML programs, not Apple's runtime,"}
"""What ran the file, where that is not the runtime itself."""


def render(document: dict[str, Any]) -> str:
    """The page for a report document: all styles and pictures inside, no request to anywhere."""
    charts = [_charts(document, artifact) for artifact in document["artifacts"]]
    tables = [quality_tables(artifact["metrics"], document["baseline"]) for artifact in document["artifacts"]]
    words = {
        "readers": READERS,
        "runners": RUNNERS,
        "sources": SOURCES,
        "titles": TITLES,
        "tables": tables,
    }
    return _environment().get_template("report.html.jinja").render(report=document, charts=charts, gains=GAINS, **words)


def render_ladder(document: dict[str, Any]) -> str:
    """The page for several settings of a recipe; see `edgekd.report.ladder`."""
    charts = [_fronts(target) for target in document["targets"]]
    return _environment().get_template("ladder.html.jinja").render(ladder=document, charts=charts, titles=TITLES)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("edgekd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=_bytes,
        cost=COSTS.__getitem__,
        count=_count,
        joules=_joules,
        loss=_loss,
        ms=_ms,
        percent=_percent,
        score=shown,
    )
    return environment


def _fronts(target: dict[str, Any]) -> list[str]:
    """The score against each cost that is known."""
    found, metric = [], target["metric"]
    scale, unit = (1, "") if metric == "r2" else (100, ", %")
    for cost, title in UNITS.items():
        rungs = [rung for rung in target["rungs"] if rung[cost] is not None]
        dots = [Dot(rung["rung"], rung[cost], scale * rung["accuracy"], cost in rung["front"]) for rung in rungs]
        if dots:
            found.append(front(f"{TITLES[metric]}{unit} against {title}", dots))
    return found


def _charts(report: dict[str, Any], artifact: dict[str, Any]) -> list[str]:
    accuracy, metric = dict(artifact["accuracy"]), artifact["metric"]
    names = {"teacher": "teacher"}
    if report["baseline"]:
        names["alone"], accuracy["alone"] = "student alone", report["baseline"]["accuracy"]
    names["student_float"] = FLOAT
    smallest = COMPRESSED if "compressed" in accuracy else FLOAT
    if "compressed" in accuracy:
        names["compressed"] = COMPRESSED
    names["exported"] = f"exported {artifact['precision']}"
    teacher_params = report["teacher"]["params"]
    weights = [Bar("teacher", 4 * teacher_params, _bytes(4 * teacher_params))] if teacher_params else []
    pictures = [
        bars(
            f"{TITLES[metric].capitalize() if metric == 'accuracy' else TITLES[metric]} on the test split",
            [Bar(name, max(accuracy[key], 0.0), shown(accuracy[key], metric)) for key, name in names.items()],
        ),
        bars(
            f"Size, log scale{' (teacher: weights alone)' if weights else ''}",
            [
                *weights,
                Bar(smallest, artifact["float32"]["bytes"], _bytes(artifact["float32"]["bytes"])),
                Bar(f"exported {artifact['precision']}", artifact["bytes"], _bytes(artifact["bytes"])),
            ],
            logarithmic=True,
        ),
    ]
    for index, exported in enumerate(artifact["measurements"]):
        compared = [
            *(("teacher", taken) for taken in artifact["comparison"]["teacher"][index : index + 1]),
            (smallest, artifact["comparison"]["student"][index]),
            (f"exported {artifact['precision']}", exported),
        ]
        entries = [_latency(name, taken) for name, taken in compared if taken.get("valid")]
        if exported["valid"]:
            title = f"p50 on {exported['device']}, {exported['timing']}, log scale"
            pictures.append(bars(title, entries, logarithmic=True))
    return pictures


def _loss(table: dict[str, Any]) -> str:
    """A loss or a compression of the recipe in words: its name, and its settings as they are written there."""
    settings = {name: value for name, value in table.items() if name not in ("kind", "train") and value is not None}
    return f"{table['kind']} ({', '.join(f'{name} {_setting(value)}' for name, value in settings.items())})"


def _setting(value: Any) -> str:
    match value:
        case {"kind": kind, "start": start, "end": end}:
            return f"{start:g} to {end:g}, {kind}"
        case float():
            return f"{value:g}"
    return str(value)


def _latency(name: str, measurement: dict[str, Any]) -> Bar:
    p50 = measurement["p50_ms"]
    return Bar(name, p50["value"], _ms(p50["value"]), (p50["value"] - p50["low"], p50["high"] - p50["value"]))


def _bytes(number: int) -> str:
    if number < 10_000:
        return f"{number:,} B"
    return f"{number / 1000:,.1f} kB" if number < 1_000_000 else f"{number / 1e6:,.2f} MB"


def _count(number: int | None) -> str:
    return NOT_KNOWN if number is None else f"{number:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _joules(value: float) -> str:
    return f"{1000 * value:.3g} mJ" if value >= 1e-3 else f"{1e6 * value:.3g} µJ"


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value >= 1 else f"{1000 * value:.3g} µs"
