"""Keras files and SavedModel folders as teachers, through tensorflow."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.distill.teacher_config import KerasModel
from edgekd.distill.teachers.answers import Source, given_to
from edgekd.distill.teachers.samples import Batch
from edgekd.errors import UsageError, first_line
from edgekd.quiet import quiet
from edgekd.runtimes.session import channels_last

SIGNATURE = "serving_default"
LOGITS = "logits"
Function = Callable[[Any], Any]


def open_model(config: KerasModel, name: str) -> Source:
    """Load a `.keras` file, without the code that a file may carry, or the serving signature of a SavedModel.

    Images are given with their channels last. Raises UsageError if it is missing, damaged, or of several outputs.
    """
    path = config.path
    if path.suffix != ".keras" and not (path / "saved_model.pb").is_file():
        raise UsageError(f"{name}: {path} is neither a .keras file nor the folder of a SavedModel; save it as one")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet():
            run, params = _keras_file(path) if path.suffix == ".keras" else _saved_model(path)
    except Exception as error:  # tensorflow and keras raise whatever their readers run into
        raise UsageError(f"{name}: {path} cannot be opened ({first_line(error)})") from error
    given = given_to(config.preprocess)

    def numbers(batch: Batch) -> np.ndarray:
        inputs = given(batch)
        if config.preprocess is None:
            inputs = channels_last(inputs)
        return _only(run(inputs), name)

    return Source(numbers, name, config.labels, config.outputs, params)


def _only(outputs: Any, name: str) -> np.ndarray:
    if isinstance(outputs, Mapping):
        if len(outputs) > 1 and LOGITS not in outputs:
            raise UsageError(f"{name}: it has the outputs {', '.join(outputs)}; save it with one, or name one {LOGITS}")
        outputs = outputs[LOGITS] if LOGITS in outputs else next(iter(outputs.values()))
    if isinstance(outputs, list | tuple):
        if len(outputs) > 1:
            raise UsageError(f"{name}: it has {len(outputs)} outputs; save it with one")
        outputs = outputs[0]
    return np.asarray(outputs)


def _keras_file(path: Path) -> tuple[Function, int]:
    import tensorflow

    model = tensorflow.keras.models.load_model(path, compile=False, safe_mode=True)

    def run(inputs: Any) -> Any:
        return model(_tensors(inputs, {entry.name: entry for entry in model.inputs}), training=False)

    return run, int(model.count_params())


def _saved_model(path: Path) -> tuple[Function, None]:
    import tensorflow

    loaded = tensorflow.saved_model.load(str(path))
    if SIGNATURE not in loaded.signatures:
        raise ValueError(f"no signature '{SIGNATURE}', known: {', '.join(loaded.signatures) or 'none'}")
    function = loaded.signatures[SIGNATURE]
    specs = function.structured_input_signature[1]

    def run(inputs: Any, owner: Any = loaded) -> Any:
        given = _tensors(inputs, specs)
        return function(**(given if isinstance(given, Mapping) else {next(iter(specs)): given}))

    return run, None


def _tensors(inputs: Any, specs: Mapping[str, Any]) -> Any:
    """Arrays as tensors of the dtypes that the model takes: one array, or a dict by input name.

    specs: input name -> its shape and dtype. Raises ValueError for what does not fit them.
    """
    if isinstance(inputs, Mapping):
        unknown = next((name for name in inputs if name not in specs), None)
        if unknown is not None:
            raise ValueError(f"no input '{unknown}', known: {', '.join(specs)}")
        return {name: _tensor(array, name, specs[name]) for name, array in inputs.items()}
    if len(specs) > 1:
        raise ValueError(f"it has the inputs {', '.join(specs)}; let 'preprocess' return a dict of arrays by name")
    name, spec = next(iter(specs.items()))
    return _tensor(inputs, name, spec)


def _tensor(values: Any, name: str, spec: Any) -> Any:
    import tensorflow

    array, shape = np.asarray(values), tensorflow.TensorShape(spec.shape)
    if not shape.is_compatible_with(array.shape):
        raise ValueError(f"'{name}' takes arrays of shape {shape}, not {array.shape}; give it a 'preprocess' function")
    return tensorflow.cast(array, spec.dtype)
