"""ONNX and TFLite files as teachers, run by the runtimes that run what edgekd exports."""

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.distill.teacher_config import OnnxFile, TFLiteFile, Written
from edgekd.distill.teachers.answers import Source, given_to
from edgekd.distill.teachers.samples import Batch
from edgekd.errors import DeviceError, UsageError
from edgekd.runtimes import open_session
from edgekd.runtimes.session import Session, TensorSpec
from edgekd.tasks.dataset import raw_pixels

LOGITS = "logits"
"""The output that counts where a file has several."""
LONGEST = 1 << 20
"""Bytes of a text in a file: what is longer is not read."""
RUNTIMES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}


def open_file(config: OnnxFile | TFLiteFile, name: str) -> Source:
    """Load the file. One with a fixed batch is asked sample by sample; a quantized one gets and gives real numbers.

    Raises UsageError if it is missing, damaged, or of several outputs of which none is called `logits`.
    """
    try:
        session = open_session(config.file, threads=os.cpu_count() or 1, runtime=RUNTIMES[config.kind])
    except (UsageError, DeviceError) as error:
        raise UsageError(f"{name}: {error}") from error
    told = _told(config.file)
    run = _runner(session, told.open_batch, _output(session, name))
    given = given_to(config.preprocess)
    encode = _encoder(session, config.preprocess is None, told.pixels, name)

    def numbers(batch: Batch) -> np.ndarray:
        return run(encode(given(batch)))

    return Source(numbers, name, config.labels or told.labels, config.outputs or told.written)


@dataclass(frozen=True)
class Told:
    """What a file says about itself. pixels: mean and std, where it takes raw pixels and normalises them itself.
    open_batch: does it take batches of any size in one go? Only ONNX files can say so.
    """

    labels: tuple[str, ...] = ()
    written: Written | None = None
    pixels: tuple[float, float] | None = None
    open_batch: bool = False


def _told(file: Path) -> Told:
    """Beside the batch, what the card tells that edgekd puts into a file. A damaged card counts as none."""
    card, open_batch = _onnx(file) if file.suffix == ".onnx" else (_tflite_card(file), False)
    try:
        preprocessing = json.loads(card["edgekd.preprocessing"]) if "edgekd.preprocessing" in card else {"input": ""}
        labels = tuple(str(label) for label in json.loads(card.get("edgekd.labels", "[]")))
        output = card.get("edgekd.output")
        written: Written | None = output if output in ("logits", "probabilities") else None  # type: ignore[assignment]
        return Told(labels, written, raw_pixels(preprocessing), open_batch)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Told(open_batch=open_batch)


def _onnx(file: Path) -> tuple[dict[str, str], bool]:
    """The card, and whether the batch is open."""
    from edgekd.readers.onnx import read_model

    model = read_model(file)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry.type.tensor_type.shape.dim for entry in model.graph.input if entry.name not in constants]
    open_batch = all(len(sides) > 0 and not sides[0].HasField("dim_value") for sides in inputs)
    return {entry.key: entry.value for entry in model.metadata_props}, open_batch


def _tflite_card(file: Path) -> dict[str, str]:
    """The standard metadata's files; they lie behind the model as a zip archive. Nothing where that is damaged."""
    if not zipfile.is_zipfile(file):
        return {}
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            card = {}
            if sizes.get("labels.txt", LONGEST) < LONGEST:
                card["edgekd.labels"] = json.dumps(archive.read("labels.txt").decode().splitlines())
            if sizes.get("preprocessing.json", LONGEST) < LONGEST:
                card["edgekd.preprocessing"] = archive.read("preprocessing.json").decode()
            return card
    except (ValueError, zipfile.BadZipFile):
        return {}


def _output(session: Session, name: str) -> int:
    names = [spec.name for spec in session.outputs]
    if len(names) == 1:
        return 0
    if LOGITS in names:
        return names.index(LOGITS)
    raise UsageError(
        f"{name}: the file has {len(names)} outputs ({', '.join(names)}); save it with one, or name one {LOGITS}"
    )


def _encoder(
    session: Session, as_student: bool, pixels: tuple[float, float] | None, name: str
) -> Callable[[Any], list[np.ndarray]]:
    """From what the model is given to the content of its inputs, in their order."""

    def encode(given: Any) -> list[np.ndarray]:
        if as_student and len(session.inputs) == 1:
            return [_fitting(session.encode(given, pixels), session.inputs[0], name)]
        arrays = given if isinstance(given, Mapping) else {session.inputs[0].name: given}
        if arrays.keys() != {spec.name for spec in session.inputs}:
            raise UsageError(
                f"{name}: the file's inputs are {', '.join(spec.name for spec in session.inputs)}, not "
                f"{', '.join(map(str, arrays))}; let 'preprocess' return a dict of arrays by these names"
            )
        return [_fitting(_content(np.asarray(arrays[spec.name]), spec), spec, name) for spec in session.inputs]

    return encode


def _content(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    return spec.quantize(array) if array.dtype.kind == "f" else array.astype(spec.dtype)


def _fitting(array: np.ndarray, spec: TensorSpec, name: str) -> np.ndarray:
    if array.shape[1:] != spec.shape[1:]:
        raise UsageError(
            f"{name}: the file takes samples of shape {spec.shape[1:]} as '{spec.name}', these have {array.shape[1:]}; "
            "give it a 'preprocess' function"
        )
    return array


def _runner(session: Session, open_batch: bool, output: int) -> Callable[[list[np.ndarray]], np.ndarray]:
    spec = session.outputs[output]

    def once(contents: list[np.ndarray]) -> np.ndarray:
        session.set_inputs(contents)
        session.invoke()
        return spec.dequantize(np.array(session.get_outputs()[output]))

    def one_by_one(contents: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([once([part[row : row + 1] for part in contents]) for row in range(len(contents[0]))])

    return once if open_batch else one_by_one
