"""int8 files of students whose weights nobody trained: good for nothing but taking their time."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.students import DIGITS, SEED, card_of, settled
from edgekd.compress import quantize
from edgekd.export.formats import export_program
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.mobilenet_v2 import mobilenet_v2
from edgekd.models.resnet import resnet
from edgekd.quiet import quiet
from edgekd.target import Format

CALIBRATION = 32
FORMATS: tuple[Format, ...] = ("tflite", "onnx", "openvino")
NOTHING, DS_CNN, RESNET = "nothing", "DS-CNN 49x40x1", "ResNet-8 32x32x3"
MOBILENET, LARGE = "MobileNetV2 0.35 96x96x3", "MobileNetV2 224x224x3"
NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    NOTHING: ((1,), lambda: nn.Sequential(nn.Linear(1, 1))),
    DS_CNN: (
        (1, 49, 40),
        lambda: ds_cnn((1, 49, 40), len(DIGITS), width=36, blocks=4, stem_kernel=(10, 4), stem_stride=(2, 2)),
    ),
    RESNET: ((3, 32, 32), lambda: resnet((3, 32, 32), len(DIGITS))),
    MOBILENET: ((3, 96, 96), lambda: mobilenet_v2((3, 96, 96), len(DIGITS), width=0.35)),
    LARGE: ((3, 224, 224), lambda: mobilenet_v2((3, 224, 224), len(DIGITS))),
}
"""The shape of an input, and the network. `nothing` is one number times another: what is left is the harness."""


def files_of(name: str, folder: Path) -> dict[Format, Path]:
    """A network in every format, in `folder`."""
    shape, make = NETWORKS[name]
    return _export(name, shape, make, folder, FORMATS)


def with_more_layers(count: int, folder: Path) -> Path:
    """The ResNet-8 as TFLite with so many cheap layers more, 64 by 64, before its last one."""

    def longer() -> nn.Module:
        model = resnet((3, 32, 32), len(DIGITS))
        features = model.classifier.in_features
        more = [layer for _ in range(count) for layer in (nn.Linear(features, features), nn.ReLU())]
        model.classifier = nn.Sequential(*more, model.classifier)
        return model

    name = f"{RESNET} and {count} layers"
    return _export(name, NETWORKS[RESNET][0], longer, folder, ("tflite",))["tflite"]


def _export(
    name: str, shape: tuple[int, ...], make: Callable[[], nn.Module], folder: Path, formats: tuple[Format, ...]
) -> dict[Format, Path]:
    torch.manual_seed(SEED)
    inputs = torch.randn(CALIBRATION, *shape)
    with quiet():
        program = quantize(settled(make(), inputs), inputs)
    files = {}
    for kind in formats:
        place = folder / kind
        place.mkdir(parents=True)
        files[kind] = export_program(program, kind, "int8", place, card_of(name, ()))
    return files
