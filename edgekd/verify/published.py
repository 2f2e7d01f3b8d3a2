"""Checking a published target again, from its own files alone: no torch, no store."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import sha256_of
from edgekd.compress.quantizers import kept, output_scale, read_table
from edgekd.config import nearest
from edgekd.dependencies import require_runtime
from edgekd.errors import GateError, UsageError
from edgekd.publish import MANIFEST
from edgekd.runtimes import open_session, runtime_for
from edgekd.runtimes.session import Session
from edgekd.target import FORMATS
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
        precision, output, runtime = manifest["precision"], manifest["output"], str(manifest["runtime"])
        model_name = str(manifest["model"])
        digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / MANIFEST}: not a manifest of edgekd ({type(error).__name__}: {error})") from error
    model = folder / model_name
    runtime_for(model)
    if runtime not in FORMATS:
        raise UsageError(f"{folder / MANIFEST}: runtime '{runtime}' is not known; {nearest(runtime, FORMATS)}")
    require_runtime(runtime)
    graph = read_graph(model)
    readback = read_back(kept(table, precision), graph)
    if readback.problems:
        raise GateError(f"{model}: {readback.problems[0]}; the file does not hold what was learned")
    session = open_session(model, runtime=runtime)
    steps = precision == "int8"
    scale = output_scale(table) / (1 if output["meaning"].startswith("logits") else 2) if steps else 1.0
    worst, limit = _worst_golden_difference(folder, session, scale), limits["max_lsb" if steps else "max_abs_diff"]
    if worst > limit:
        raise GateError(f"{model}: a golden output is {worst:g} {'steps ' if steps else ''}off, above {limit:g}")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise GateError(f"{folder / name}: missing; publish it again with edgekd build")
        if sha256_of(folder / name) != digest:
            raise GateError(f"{folder / name}: changed since it was published; publish it again with edgekd build")
    checks = {
        "files": len(digests),
        "scales exact": f"{readback.exact}/{readback.learned}",
        f"golden outputs, largest difference{' in steps' if steps else ''}": worst,
        "undelegated nodes": len(session.placement().undelegated),
        "transposes": len(layout_changes(graph)),
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
