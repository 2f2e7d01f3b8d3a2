"""Students of a row as files, made once and kept: what they cost and how often they are right."""

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.alternatives import ai_edge_quantizer, nncf, onnxruntime, torchao
from benchmarks.compression.rows import FLOAT, Row
from benchmarks.compression.subjects import Compressed
from benchmarks.distillation.kept import kept, key_of
from benchmarks.distillation.materials import Material
from benchmarks.distillation.methods import alone
from benchmarks.distillation.training import Taught, accuracy_of, built, everything, train
from benchmarks.students import card_of
from edgekd.compress import quantize
from edgekd.compress.order import Shrinking
from edgekd.compress.shrink import shrink
from edgekd.export.formats import export_float, export_program
from edgekd.models.build import Architecture, example_input, load_module, save_module
from edgekd.models.cost import macs
from edgekd.recipe import Prune, Training
from edgekd.runtimes import open_session
from edgekd.seeding import deterministic
from edgekd.target import Format
from edgekd.tasks.metrics import score

FORMATS: tuple[Format, ...] = ("tflite", "onnx")
CALIBRATION = 256


@dataclass(frozen=True)
class Case:
    """A student from one seed, and all that it learns from. Models and files are kept in `cache`."""

    subject: Compressed
    data: Material
    taught: Taught
    seed: int
    cache: Path

    def place(self, *described: Any) -> Path:
        """The folder of what is described so."""
        subject = self.subject.learning
        learning = [subject.teacher, subject.members, subject.teacher_training, subject.student, subject.training]
        return self.cache / "compression" / key_of([self.data.key, *learning, self.seed, *described])

    def learn(self, module: nn.Module, training: Training, taught: bool) -> None:
        """Train in place on the labels, with the teacher's answers beside them or without."""
        objective = self.subject.learning.methods["soft"] if taught else alone()
        train(module, None, objective, everything(self.data, self.data.labels, self.taught), training, self.seed)

    @property
    def calibration(self) -> torch.Tensor:
        inputs = self.data.inputs[0]
        return inputs[np.sort(np.random.default_rng(self.seed).permutation(len(inputs))[:CALIBRATION])]


@dataclass(frozen=True)
class Made:
    """A row's files by format. accuracy: of each file on the test split, 0 to 1. bytes: of each file.

    bare: accuracy of the model after the last cut, done at once and without recovery; None where nothing is cut.
    """

    files: dict[str, Path]
    accuracy: dict[str, float]
    bytes: dict[str, int]
    macs: int
    bare: float | None


def made(row: Row, case: Case) -> Made:
    """All of a row, whatever of it is not there yet."""
    folder = case.place("files", row, case.subject.qat)

    def make() -> dict[str, Any]:
        started = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        module, architecture = cut(row.cuts, row.taught, case)
        for file in FILES[row.form](module, row, case, folder):
            assert file.is_file(), file
        files = {name: f"model.{name}" for name in FORMATS if (folder / f"model.{name}").is_file()}
        found = {
            "files": files,
            "accuracy": {name: _right(folder / file, case.data) for name, file in files.items()},
            "bytes": {name: (folder / file).stat().st_size for name, file in files.items()},
            "macs": macs(module, example_input(architecture)),
            "bare": _bare(row, case),
        }
        seconds = time.perf_counter() - started
        print(
            f"{case.subject.title}, seed {case.seed}: {row.name}: {found['accuracy']}, {seconds:.0f} s", file=sys.stderr
        )
        return found

    found = kept(folder / "found.json", make)
    return Made(**{**found, "files": {name: folder / file for name, file in found["files"].items()}})


def cut(cuts: tuple[Shrinking, ...], taught: bool, case: Case) -> tuple[nn.Module, Architecture]:
    """The float student, distilled, after these cuts, each recovered."""
    if not cuts:
        return _model(case.place("student"), lambda: _student(case))

    def make() -> tuple[nn.Module, Architecture]:
        before = cut(cuts[:-1], taught, case)
        deterministic(case.seed)
        return shrink(cuts[-1], *before, lambda module: case.learn(module, cuts[-1].train, taught))

    return _model(case.place("cut", cuts, taught), make)


def _student(case: Case) -> tuple[nn.Module, Architecture]:
    network, training = case.subject.learning.student, case.subject.learning.training
    module = built(network, case.data, case.seed)
    case.learn(module, training, taught=True)
    return module, case.data.architecture(network.model, network.args)


def _model(folder: Path, make: Callable[[], tuple[nn.Module, Architecture]]) -> tuple[nn.Module, Architecture]:
    """What is saved in a folder, or is made and saved: always as it is loaded."""
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        save_module(*make(), part)
        part.rename(folder)
    return load_module(folder, "student")


def _bare(row: Row, case: Case) -> float | None:
    if row.form != "float" or not row.cuts:
        return None
    last = row.cuts[-1]
    at_once = dataclasses.replace(last, rounds=1) if isinstance(last, Prune) else last
    bare, _ = shrink(at_once, *cut(row.cuts[:-1], row.taught, case), lambda module: None)
    return accuracy_of(bare, case.data)


def _right(file: Path, data: Material) -> float:
    session = open_session(file)
    return score(session.decode(session.run(session.encode(data.test.numpy()))), data.test_labels, "classification")


def _float(module: nn.Module, row: Row, case: Case, folder: Path) -> list[Path]:
    example = torch.zeros_like(case.calibration[:1]).contiguous()
    return [export_float(module, example, name, "float32", folder, card_of(case.subject.title, ())) for name in FORMATS]


def _int8(module: nn.Module, row: Row, case: Case, folder: Path) -> list[Path]:
    deterministic(case.seed)
    training = partial(case.learn, training=case.subject.qat, taught=row.taught)
    program = quantize(module, case.calibration, training if row.form == "qat" else None, weight_bits=row.bits)
    return [export_program(program, name, "int8", folder, card_of(case.subject.title, ())) for name in FORMATS]


def _onnxruntime(module: nn.Module, row: Row, case: Case, folder: Path) -> list[Path]:
    return [onnxruntime.convert(_float_onnx(case), case.calibration, folder / "model.onnx", unsigned=True)]


def _nncf(module: nn.Module, row: Row, case: Case, folder: Path) -> list[Path]:
    return [nncf.convert_onnx(_float_onnx(case), case.calibration, folder / "model.onnx")]


def _ai_edge_quantizer(module: nn.Module, row: Row, case: Case, folder: Path) -> list[Path]:
    return [ai_edge_quantizer.convert(module, case.calibration, folder / "model.tflite")]


def _torchao(module: nn.Module, row: Row, case: Case, folder: Path) -> list[Path]:
    deterministic(case.seed)
    example = torch.zeros_like(case.calibration[:1]).contiguous()
    training = partial(case.learn, training=case.subject.qat, taught=row.taught)
    return [torchao.convert(module, example, training, folder / "model.tflite")]


def _float_onnx(case: Case) -> Path:
    return made(Row(FLOAT, "float"), case).files["onnx"]


FILES: dict[str, Callable[[nn.Module, Row, Case, Path], list[Path]]] = {
    "float": _float,
    "ptq": _int8,
    "qat": _int8,
    "onnxruntime": _onnxruntime,
    "nncf": _nncf,
    "ai-edge-quantizer": _ai_edge_quantizer,
    "torchao": _torchao,
}
