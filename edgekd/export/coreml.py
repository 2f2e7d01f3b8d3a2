"""Core ML packages (.mlpackage) by torch.export and coremltools, for iOS 17 and later."""

import hashlib
import json
import shutil
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.compress.fold import trace
from edgekd.errors import ExportError
from edgekd.export.blame import refusal
from edgekd.export.card import Card
from edgekd.quiet import quiet

IMAGE_DIMENSIONS = 4
IMAGE_LAYOUTS = {1: "GRAYSCALE", 3: "RGB"}
"""Images that Core ML takes, by their channels."""
WHAT = {"classification": "classes", "multi-label": "labels", "regression": "outputs"}
INT8_OFFSET = 128
HALF_A_PIXEL = 0.5
PASSES_LEFT_OUT = {
    "common::distributive_quantized_binary_op_scale_normalization",
    "common::int_op_canonicalization",
}
"""Both rewrite learned scales: the first divides those around an addition by one another, the second drops a quantizer
behind a reshape whatever its scale."""
MODEL, WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"


def export(
    model: nn.Module,
    example: torch.Tensor,
    file: Path,
    card: Card,
    half: bool,
    pixels: tuple[float, float] | None = None,
) -> None:
    """Write a float model, or a quantized one with its weights stored as int8 (`frozen(stored=True)`).

    example: shape (1, ...), float32, or int32 for token ids. file: a folder whose name ends in .mlpackage; what is
    there already is replaced. half: compute in float16, as the Neural Engine does; scales are then held as float16.
    pixels: (mean, std) of pixels; the app hands over an image of 1 or 3 channels, or an array of raw pixel values, and
    the program normalises it. With a classifier's card the model must end in a softmax, and the file names the class;
    else its one output is called `output`.

    Raises ExportError with the converter's reason; `file` is then as it was before.
    """
    if card.is_classifier and len(set(card.labels)) < len(card.labels):
        raise ExportError("Core ML export: two classes have the same name; a classifier needs names that differ")
    traced = trace(model.eval(), example)
    try:
        with quiet(), torch.no_grad(), tempfile.TemporaryDirectory(prefix=".edgekd-", dir=file.parent) as place:
            converted = Path(place) / "converted.mlpackage"
            program = _program(model, example, pixels)
            _convert(program, example, card, half, pixels is not None, converted)
            package = Path(place) / file.name
            _write_package(converted / "Data" / MODEL, card, pixels is not None, package)
            if file.exists():
                shutil.rmtree(file)
            package.rename(file)
    except ExportError:
        raise
    except Exception as error:  # a converter fails in as many ways as there are models
        raise ExportError(f"Core ML export: coremltools refused the model: {refusal(error, traced)}") from error


class _FromPixels(nn.Module):
    """The model, fed with (pixels - shift) * factor."""

    def __init__(self, model: nn.Module, shift: float, factor: float) -> None:
        super().__init__()
        self.model, self.shift, self.factor = model, shift, factor

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model((pixels - self.shift) * self.factor)
        return outputs


def _program(model: nn.Module, example: torch.Tensor, pixels: tuple[float, float] | None) -> Any:
    traced = trace(model.eval(), example)
    if pixels is not None:
        mean, std = pixels
        shift, factor = _pixel_grid(traced, mean, std) or (mean, 1 / std)
        traced = trace(_FromPixels(model, shift, factor).eval(), example)
    aten = torch.ops.aten
    return traced.run_decompositions({aten.gelu.default: _gelu, aten.reciprocal.default: _reciprocal})


def _reciprocal(inputs: torch.Tensor) -> torch.Tensor:
    """coremltools takes an operation for it that adds 0.0001 first."""
    return torch.div(torch.ones_like(inputs), inputs)


def _gelu(inputs: torch.Tensor, approximate: str = "none") -> Any:
    """coremltools takes every GELU for the exact one; the tanh form is spelled out, and put together again by it."""
    if approximate != "tanh":
        return NotImplemented
    inner = 0.7978845608028654 * (inputs + 0.044715 * torch.pow(inputs, 3))
    return 0.5 * inputs * (1 + torch.tanh(inner))


def _pixel_grid(program: Any, mean: float, std: float) -> tuple[float, float] | None:
    """(shift, factor) by which every pixel value lies in the middle of a step of the input's quantizer, or None if the
    quantizer is not the pixel grid. In float16 the mean and the quotient may be off by more than half a step.
    """
    (name,) = program.graph_signature.user_inputs
    (source,) = (node for node in program.graph.nodes if node.name == name)
    numbers = {node.args[1:3] for node in source.users if "quantize_per_tensor" in str(node.target)}
    if len(numbers) != 1:
        return None
    scale, zero_point = numbers.pop()
    shift = float(zero_point + INT8_OFFSET)
    on_grid = abs(scale * std - 1) * 2 * INT8_OFFSET < HALF_A_PIXEL and abs(shift - mean) <= HALF_A_PIXEL
    return (shift, float(scale)) if on_grid else None


def _convert(program: Any, example: torch.Tensor, card: Card, half: bool, pixels: bool, package: Path) -> None:
    import coremltools

    passes = coremltools.PassPipeline.DEFAULT
    passes.remove_passes(PASSES_LEFT_OUT)
    shape = tuple(example.shape)
    dtype = np.float32 if example.is_floating_point() else np.int32
    (name,) = program.graph_signature.user_inputs
    inputs = [coremltools.TensorType(name, shape, dtype)]
    if pixels and len(shape) == IMAGE_DIMENSIONS and shape[1] in IMAGE_LAYOUTS:
        layout = getattr(coremltools.colorlayout, IMAGE_LAYOUTS[shape[1]])
        inputs = [coremltools.ImageType(name, shape, color_layout=layout)]
    classifier = card.is_classifier
    coremltools.convert(
        program,
        inputs=inputs,
        outputs=None if classifier else [coremltools.TensorType(dtype=np.float32)],
        classifier_config=coremltools.ClassifierConfig(list(card.labels)) if classifier else None,
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32,
        convert_to="mlprogram",
        pass_pipeline=passes,
        skip_model_load=True,
        package_dir=str(package),
    )


def _write_package(specification: Path, card: Card, pixels: bool, package: Path) -> None:
    """The same program with names by place, the card as metadata, and identifiers that follow from the content: the
    converter counts across all models of a process, notes the date, and draws identifiers at random.

    The manifest is laid out as Apple's tools do it: they write it again whenever they open a package.
    """
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString(specification.read_bytes())
    _describe(model, card, pixels)
    _name(model)
    content = model.SerializeToString(deterministic=True)
    target = package / "Data" / MODEL
    target.parent.mkdir(parents=True)
    target.write_bytes(content)
    weights = specification.parent / "weights" / "weight.bin"
    digest = hashlib.sha256(content)
    parts = [("model.mlmodel", MODEL, "CoreML Model Specification")]
    if weights.is_file():
        (package / "Data" / WEIGHTS).mkdir()
        shutil.copyfile(weights, package / "Data" / WEIGHTS / weights.name)
        digest.update(weights.read_bytes())
        parts.append(("weights", WEIGHTS, "CoreML Model Weights"))
    identifiers = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{digest.hexdigest()} {name}")) for name, _, _ in parts]
    entries = {
        identifier: {"author": "com.apple.CoreML", "description": description, "name": name, "path": path}
        for identifier, (name, path, description) in zip(identifiers, parts, strict=True)
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": identifiers[0]}
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def _describe(model: Any, card: Card, pixels: bool) -> None:
    metadata = model.description.metadata
    metadata.Clear()
    metadata.shortDescription = f"{card.name}: {card.output} of {len(card.labels)} {WHAT[card.outputs]}"
    metadata.userDefined.update(card.properties())
    if pixels:
        metadata.userDefined["edgekd.input"] = "pixels"


def _name(model: Any) -> None:
    """Operations by kind and number, constants by what they are used for; the input is `input`, the output of a plain
    model `output`.
    """
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    (source,) = function.inputs
    names = {source.name: "input"}
    classifier = bool(model.description.predictedFeatureName)
    names |= {name: name if classifier else "output" for name in block.outputs}
    counts: Counter[str] = Counter()
    for operation in block.operations:
        if operation.blocks or any(_is_flexible(output) for output in operation.outputs):
            raise ExportError(
                f"Core ML export: what {operation.type} makes depends on the data; replace it in the model"
            )
        if operation.type == "const":
            continue
        name = f"{operation.type}_{counts[operation.type]}"
        counts[operation.type] += 1
        for position, output in enumerate(operation.outputs):
            names.setdefault(output.name, name if len(operation.outputs) == 1 else f"{name}_{position}")
        for key in sorted(operation.inputs):
            arguments = operation.inputs[key].arguments
            for position, binding in enumerate(arguments):
                names.setdefault(binding.name, f"{name}_{key}" if len(arguments) == 1 else f"{name}_{key}_{position}")
        _rename(operation, names, name)
    for operation in block.operations:
        if operation.type == "const":
            _rename(operation, names, names[operation.outputs[0].name])
    block.outputs[:] = [names[name] for name in block.outputs]
    source.name = "input"
    for entry in (*model.description.input, *model.description.output):
        entry.name = names[entry.name]


def _is_flexible(output: Any) -> bool:
    return any(side.WhichOneof("dimension") != "constant" for side in output.type.tensorType.dimensions)


def _rename(operation: Any, names: dict[str, str], name: str) -> None:
    operation.attributes["name"].immediateValue.tensor.strings.values[:] = [name]
    for output in operation.outputs:
        output.name = names[output.name]
    for key in operation.inputs:
        for binding in operation.inputs[key].arguments:
            if binding.WhichOneof("binding") == "name":
                binding.name = names[binding.name]
