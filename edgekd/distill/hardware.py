"""Where a training runs: the processes, devices and precision that accelerate finds."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin

from edgekd.distill.distiller import Distiller
from edgekd.errors import UsageError
from edgekd.processes import launched
from edgekd.recipe import Training

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""As accelerate names them."""


def accelerator_for(training: Training) -> Accelerator:
    """An accelerator for a training's precision. Joins the processes of the launch, if there are several.

    What the environment says of precision and accumulation does not count: a recipe's key must tell its result.
    Raises UsageError for fp16 without a GPU, which would quietly train in fp32.
    """
    precision = PRECISIONS[training.precision]
    if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=launched() > 1 and not torch.cuda.is_available(),
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)],
    )
    if training.precision == "fp16" and accelerator.scaler is None:
        raise UsageError(f"precision fp16 needs a GPU, and this trains on {accelerator.device}; use bf16 or fp32")
    return accelerator


@contextmanager
def placed(distiller: Distiller, device: torch.device) -> Iterator[None]:
    """While the context lasts, student and teacher are on the device; then they are back where they were."""
    models = [distiller, *([] if distiller.teacher is None else [distiller.teacher])]
    before = [next(iter(model.state_dict().values()), torch.empty(0)).device for model in models]
    for model in models:
        model.to(device)
    try:
        yield
    finally:
        for model, home in zip(models, before, strict=True):
            model.to(home)


@contextmanager
def prepared(accelerator: Accelerator, distiller: Distiller) -> Iterator[torch.nn.Module]:
    """What to call in place of the distiller: it averages gradients over processes and keeps to the precision."""
    try:
        yield accelerator.prepare_model(distiller)
    finally:
        for mark in ("forward", "_original_forward", "_is_accelerate_prepared"):
            distiller.__dict__.pop(mark, None)
