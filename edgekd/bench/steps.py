"""The step that measures an exported file on a device, and holds its answers there against those here."""

import dataclasses
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, Facts
from edgekd.bench.calibration import Hardware
from edgekd.bench.measurement import Measurement, kept, measure
from edgekd.bench.protocol import PROTOCOLS
from edgekd.bench.roofline import NoRoofline, roofline
from edgekd.errors import GateError
from edgekd.runtimes import open_session
from edgekd.step import Work
from edgekd.step_configs import MeasureConfig
from edgekd.tasks.dataset import raw_pixels
from edgekd.tasks.metrics import score
from edgekd.verify.compare import as_logits, compare_answers

MOST_SAMPLES = 2000
"""Test samples that are sent to a device at most."""


def measure_export(work: Work[MeasureConfig]) -> Facts:
    """Measure an exported file, fed with the first test sample. File: `samples.npy`, nanoseconds, shape (processes,
    runs) cut to the shortest process.

    The file that was verified answers to the test split as well, up to MOST_SAMPLES of it; GateError if it answers
    otherwise than on this machine. A model that could not be exported is skipped, and the facts say why.
    """
    export = work.inputs["export"]
    if export.facts["file"] is None:
        return {"skipped": export.facts["why"]}
    checks, data = work.inputs.get("checks"), work.inputs["data"]
    file = export.path / str(export.facts["file"])
    session = open_session(file, runtime=work.config.runtime)
    test = np.load(data.file("test_inputs.npy"), mmap_mode="r")[: MOST_SAMPLES if checks else 1]
    inputs = session.encode(test, raw_pixels(data.facts["preprocessing"]))
    measured = measure(
        file,
        work.config.device,
        PROTOCOLS[work.config.protocol],
        [inputs],
        1 if checks else 0,
        work.config.runtime,
        work.progress,
    )
    np.save(work.out / "samples.npy", kept(measured.runs_ns))
    facts = dataclasses.asdict(measured.measurement)
    if checks is None:
        return facts | {"answers": None, "roofline": None}
    return facts | {
        "answers": _answers(work, measured.outputs[0], session.decode, checks),
        "roofline": _roofline(work, measured.measurement, checks),
    }


def _answers(work: Work[MeasureConfig], outputs: np.ndarray, decode: Any, checks: Artifact) -> dict[str, Any]:
    """How the device's outputs, shape (N, outputs), compare with this machine's, and how good they are."""
    here = np.load(checks.file("outputs.npy"), mmap_mode="r")[: len(outputs)]
    labels = np.load(work.inputs["data"].file("test_labels.npy"))[: len(outputs)]
    kind, output, found = work.inputs["data"].facts["outputs"], checks.facts["output"], decode(outputs)
    parity = compare_answers(decode(here), found, output["scale"], output["form"], kind)
    if parity.agreement < work.config.agreement:
        raise GateError(
            f"{work.config.device}: the file agrees there with its answers on this machine on {parity.agreement:.4f} "
            f"of {parity.samples} samples, below {work.config.agreement}; first at test sample {parity.disagreeing[0]}"
        )
    return {
        "samples": parity.samples,
        "agreement": parity.agreement,
        "max_abs_diff": parity.max_abs_diff,
        "max_lsb": parity.max_lsb,
        "accuracy": score(as_logits(found, kind) if output["form"] == "probabilities" else found, labels, kind),
    }


def _roofline(work: Work[MeasureConfig], measurement: Measurement, checks: Artifact) -> dict[str, Any]:
    """How near the model comes to its device's bound; nothing for times that are not valid or an emulator's."""
    if not measurement.valid or measurement.p50_ms is None or measurement.timing != "measured":
        return dataclasses.asdict(NoRoofline("the time is not a real device's, or not valid"))
    hardware = Hardware(**work.config.on["hardware"])
    cost = checks.facts["macs"], checks.facts["bytes_moved"]
    return dataclasses.asdict(roofline(*cost, work.config.precision, measurement.p50_ms.value, hardware))
