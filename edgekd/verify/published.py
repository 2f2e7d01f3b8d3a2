"""Checking a published target again, from its own files alone: no torch, no store."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import sha256_of
from edgekd.compress.quantizers import kept, output_scale, read_table
from edgekd.config import nearest
from edgekd.dependencies import require_runtime
from edgekd.errors import GateError, UsageError
from edgekd.publish import MANIFEST
from edgekd.readers import read_graph
from edgekd.readers.graph import layout_changes
from edgekd.runtimes import open_session, runtime_for
from edgekd.runtimes.session import Session
from edgekd.target import FORMATS
from edgekd.verify.compare import STEEPEST
from edgekd.verify.readback import read_back


def verify_published(folder: Path) -> dict[str, Any]:
    """Scales, golden outputs and delegation of the published model, then the digests of all files.

    Raises UsageError if the folder is not a published target or its model is damaged beyond reading, GateError if
    something in it is missing or does not hold.
    """
    manifest = _manifest(folder)
    try:
        table, limits = read_table(manifest["quantizers"]), manifest["parity"]["limits"]
        precision, output, runtime = manifest["precision"], manifest["output"], str(manifest["runtime"])
        model_name = str(manifest["model"])
        digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _foreign(folder, error) from error
    model = folder / model_name
    runtime_for(model)
    if runtime not in FORMATS:
        raise UsageError(f"{folder / MANIFEST}: runtime '{runtime}' is not known; {nearest(runtime, FORMATS)}")
    require_runtime(runtime)
    for name in digests:
        if not (folder / name).is_file():
            raise GateError(f"{folder / name}: missing; publish it again with edgekd build")
    steps = precision == "int8"
    try:
        kind, chances = manifest.get("outputs", "classification"), output["meaning"].startswith("probabilities")
        steepest = STEEPEST[kind] if chances else 1.0
        scale = output_scale(table) * steepest if steps else 1.0
        limit, target = float(limits["max_lsb" if steps else "max_abs_diff"]), str(manifest["target"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _foreign(folder, error) from error
    graph = read_graph(model)
    readback = read_back(kept(table, precision), graph)
    if readback.problems:
        raise GateError(f"{model}: {readback.problems[0]}; the file does not hold what was learned")
    session = open_session(model, runtime=runtime)
    worst = _worst_golden_difference(folder, session, scale)
    if not worst <= limit:
        raise GateError(f"{model}: a golden output is {worst:g} {'steps ' if steps else ''}off, above {limit:g}")
    for name, digest in digests.items():
        if sha256_of(folder / name) != digest:
            raise GateError(f"{folder / name}: changed since it was published; publish it again with edgekd build")
    checks = {
        "files": len(digests),
        "scales exact": f"{readback.exact}/{readback.learned}",
        f"golden outputs, largest difference{' in steps' if steps else ''}": worst,
        "undelegated nodes": len(session.placement().undelegated),
        "transposes": len(layout_changes(graph)),
    }
    return {"artifact": str(folder), "target": target, "checks": checks}


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / MANIFEST).read_text())
    except OSError as error:
        raise UsageError(f"{folder}: no {MANIFEST} in it; give a folder that a build published") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{folder / MANIFEST}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UsageError(f"{folder / MANIFEST}: not a manifest of edgekd")
    return document


def _foreign(folder: Path, error: Exception) -> UsageError:
    return UsageError(f"{folder / MANIFEST}: not a manifest of edgekd ({type(error).__name__}: {error})")


def _worst_golden_difference(folder: Path, session: Session, step: float) -> float:
    """The largest difference of a golden output, in steps of the output's scale."""
    file = folder / "golden.npz"
    try:
        with np.load(file, allow_pickle=False) as golden:
            inputs, expected = golden["input"], golden["output"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{file}: cannot be read ({type(error).__name__})") from error
    for what, found, spec in (("inputs", inputs, session.inputs[0]), ("outputs", expected, session.outputs[0])):
        as_many = found.size > 0 and len(found) == len(inputs)
        if not as_many or found.shape[1:] != spec.shape[1:] or found.dtype != spec.dtype:
            raise GateError(
                f"{file}: golden {what} are {found.dtype} of shape {found.shape}, the model's {spec.dtype} of shape "
                f"{spec.shape}; publish it again with edgekd build"
            )
    difference = session.decode(session.run(inputs)) - session.decode(expected)
    return round(float(np.abs(difference).max()) / step, 3)
