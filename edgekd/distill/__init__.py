"""Distillation: losses, their balance, taps, and the trainer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "distiller": ["Distiller", "Objective", "soft_targets", "supervised"],
        "objectives": ["build_objective"],
    },
)
