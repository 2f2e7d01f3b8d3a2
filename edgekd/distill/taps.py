"""Reading the outputs of inner layers while a model runs."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from edgekd.config import nearest
from edgekd.errors import UsageError


class Taps:
    """Forward hooks on named modules; `values` holds their outputs from the latest forward pass.

    Of a module that returns several tensors, as layers of transformers do, it is the first.
    Raises UsageError for a name that the model does not have.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.values: dict[str, torch.Tensor] = {}
        modules = dict(model.named_modules())
        for name in names:
            if name not in modules:
                raise UsageError(
                    f"layer '{name}' is not in {type(model).__name__}; {nearest(name, modules.keys() - {''})}"
                )
            modules[name].register_forward_hook(self._keep(name))

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor | tuple[Any, ...]) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, torch.Tensor):
                raise UsageError(f"layer '{name}' gives {type(first).__name__}, not a tensor; tap a layer inside it")
            self.values[name] = first

        return hook
