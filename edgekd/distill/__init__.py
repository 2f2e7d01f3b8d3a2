"""Distillation: losses, their balance, taps, and the trainer."""

from edgekd.distill.distiller import Distiller, Objective, soft_targets, supervised

__all__ = ["Distiller", "Objective", "soft_targets", "supervised"]
