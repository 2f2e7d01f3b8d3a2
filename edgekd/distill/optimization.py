"""The optimizer and the learning rate of a training."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from edgekd.recipe import Training

MOMENTUM = 0.9


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2017) or SGD over the parameters that want a gradient."""
    groups = _groups(model, training.weight_decay)
    if training.optimizer == "sgd":
        momentum = MOMENTUM if training.momentum is None else training.momentum
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=momentum)
    return torch.optim.AdamW(groups, lr=training.learning_rate)


def make_schedule(optimizer: torch.optim.Optimizer, training: Training, steps: int) -> LRScheduler:
    """The learning rate of each of `steps` steps, as a factor of `training.learning_rate` where it says nothing else.

    one-cycle: up and down again with a cosine (Smith & Topin 2017), and AdamW's first beta down and up; SGD's momentum
    stays. cosine: (t + 1) / W in the W warm-up steps, then (1 + cos(pi (t - W) / (steps - W))) / 2 in step t, from 0
    (Loshchilov & Hutter 2016, equation 5, one period).
    """
    match training.schedule:
        case "one-cycle":
            cycled = training.optimizer == "adamw"
            return OneCycleLR(optimizer, training.learning_rate, total_steps=max(steps, 2), cycle_momentum=cycled)
        case "cosine":
            warmup = round((training.warmup or 0.0) * steps)
            return LambdaLR(optimizer, lambda step: _cosine(step, warmup, steps))
        case "constant":
            return LambdaLR(optimizer, lambda step: 1.0)


def _cosine(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2.0


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for weights only: not for biases, normalisation, or learned quantizer ranges."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = {id(p) for name, p in model.named_parameters() if p.ndim > 1 and name.endswith("weight")}
    return [
        {"params": [p for p in trained if id(p) in weights], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in weights], "weight_decay": 0.0},
    ]
