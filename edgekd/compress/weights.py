"""The layers of a model whose weights compression may change."""

from collections import Counter

from torch import nn

from edgekd.compress.nncf_backend import is_quantized
from edgekd.errors import UsageError

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def weighted_layers(model: nn.Module) -> dict[str, Layer]:
    """Linear and convolution layers by module path, but for those whose weight is computed or shared with another."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Layer) and uses[id(dict(layer.named_parameters(recurse=False)).get("weight"))] == 1
    }


def require_float(model: nn.Module, change: str) -> None:
    """Raise UsageError for a model with quantizers: their ranges are those of the weights as they are."""
    if is_quantized(model):
        raise UsageError(
            f"{change}: the model is quantized already, and its ranges were found for the weights it has; "
            f"{change} the float model, then quantize"
        )
