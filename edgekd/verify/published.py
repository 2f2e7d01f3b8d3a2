"""Checking a published target again, from its own files alone: no torch, no store."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import sha256_of
from edgekd.compress.quantizers import output_scale, read_table
from edgekd.dependencies import require_runtime
from edgekd.errors import GateError, UsageError
from edgekd.publish import MANIFEST
from edgekd.runtimes import open_session, runtime_for
from edgekd.runtimes.session import Session
from edgekd.verify.graph import layout_changes
from edgekd.verify.read import read_graph
from edgekd.verify.readback import read_back


def verify_published(folder: Path) -> dict[str, Any]:
    """Scales, golden outputs and delegation of the published model, then the digests of all files.

    Raises UsageError if the folder is not a published target, GateError if something in it does not hold.
    """
    manifest = _manifest(folder)
    try:
        table, limits = read_table(manifest["quantizers"]), manifest["parity"]["limits"]
        model_name = str(manifest["model"])
        digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / MANIFEST}: not a manifest of edgekd ({type(error).__name__}: {error})") from error
    model = folder / model_name
    require_runtime(runtime_for(model))
    graph = read_graph(model)
    readback = read_back(table, graph)
    if readback.problems:
        raise GateError(f"{model}: {readback.problems[0]}; the file does not hold what was learned")
    session = open_session(model)
    worst = _worst_golden_difference(folder, session, output_scale(table))
    if worst > limits["max_lsb"]:
        raise GateError(f"{model}: a golden output is {worst:g} steps off, above {limits['max_lsb']:g}")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise GateError(f"{folder / name}: missing; publish it again with edgekd build")
        if sha256_of(folder / name) != digest:
            raise GateError(f"{folder / name}: changed since it was published; publish it again with edgekd build")
    checks = {
        "files": len(digests),
        "scales exact": f"{readback.exact}/{readback.learned}",
        "golden outputs, largest difference in steps": worst,
        "undelegated nodes": len(session.placement().undelegated),
        "stray transposes": len(layout_changes(graph)),
    }
    return {"artifact": str(folder), "target": manifest["target"], "checks": checks}


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / MANIFEST).read_text())
    except OSError as error:
        raise UsageError(f"{folder}: no {MANIFEST} in it; give a folder that a build published") from error
    except ValueError as error:
        raise UsageError(f"{folder / MANIFEST}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UsageError(f"{folder / MANIFEST}: not a manifest of edgekd")
    return document


def _worst_golden_difference(folder: Path, session: Session, step: float) -> float:
    """The largest difference of a golden output, in steps of the output's scale."""
    try:
        with np.load(folder / "golden.npz", allow_pickle=False) as golden:
            inputs, expected = golden["input"], golden["output"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder / 'golden.npz'}: cannot be read ({type(error).__name__})") from error
    difference = session.decode(session.run(inputs)) - session.decode(expected)
    return round(float(np.abs(difference).max()) / step, 3)
