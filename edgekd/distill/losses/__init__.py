"""Distillation losses, by family: each looks at the signals of one batch and gives a scalar."""

from edgekd.distill.losses.adversarial import adversarial
from edgekd.distill.losses.features import (
    attention_transfer,
    feature_mse,
    hint,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from edgekd.distill.losses.logits import (
    dist,
    dkd,
    forward_kl,
    hard,
    hard_distillation,
    jensen_shannon,
    logits_mse,
    reverse_kl,
    soft,
    soft_cross_entropy,
)
from edgekd.distill.losses.loss import UNLABELLED, Loss, Signals
from edgekd.distill.losses.outputs import binary_soft, hard_binary, hard_l1, hard_mse, output_l1, output_mse

__all__ = [
    "UNLABELLED",
    "Loss",
    "Signals",
    "adversarial",
    "attention_transfer",
    "binary_soft",
    "dist",
    "dkd",
    "feature_mse",
    "forward_kl",
    "hard",
    "hard_binary",
    "hard_distillation",
    "hard_l1",
    "hard_mse",
    "hint",
    "jensen_shannon",
    "logits_mse",
    "output_l1",
    "output_mse",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity_preserving",
    "soft",
    "soft_cross_entropy",
]
