"""The same distillation by torchdistill's `DistillationBox`, online teacher.

torchdistill is no dependency: `pip install --no-deps --target FOLDER torchdistill==1.1.5`, and FOLDER on PYTHONPATH.
It imports torchvision, for data sets and models that this work has no use for; where that is not installed, empty
modules stand in for it. Batches are handed to the box as tensors, as to the other loops, and not by its data loaders,
which collate sample by sample and would be slower.
"""

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from benchmarks.distillation.loops import Job

PARTS = ("", ".datasets", ".models", ".models.densenet", ".models.detection", ".models.resnet", ".models.segmentation")


class _Absent(ModuleType):
    """A module of which every name can be imported, and nothing used."""

    __path__: list[str]

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _stand_in() -> None:
    """Empty modules for torchvision, if it is not installed."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    for part in PARTS:
        name = f"torchvision{part}"
        sys.modules[name] = _Absent(name)
        if part:
            parent, _, own = name.rpartition(".")
            setattr(sys.modules[parent], own, sys.modules[name])


def distil(job: "Job") -> None:
    """Train the job's student with the teacher beside it."""
    from benchmarks.distillation.loops import DECAY, RATE, TEMPERATURE, WEIGHT

    _stand_in()
    from torchdistill.core.distillation import get_distillation_box

    outputs = {"student_module_path": ".", "student_module_io": "output"}
    outputs |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    loss = {"key": "KDLoss", "kwargs": {**outputs, "temperature": TEMPERATURE, "alpha": 1 - WEIGHT}}
    config = {
        "num_epochs": job.epochs,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE, "weight_decay": DECAY}},
        "scheduler": {
            "key": "OneCycleLR",
            "kwargs": {"max_lr": RATE, "total_steps": job.steps},
            "scheduling_step": 1,
        },
    }
    box = get_distillation_box(job.teacher, job.student, {}, config, torch.device("cpu"), None, False, 1)
    box.student_model.train()
    box.teacher_model.eval()
    for inputs, labels, _ in job.batches():
        box.post_forward_process(loss=box.forward_process(inputs, labels, None))
