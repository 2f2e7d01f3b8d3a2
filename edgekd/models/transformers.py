"""Classifiers of `transformers` as students: built from their configuration, given edgekd's plain inputs, and made of
operations that every format has.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edgekd.errors import UsageError
from edgekd.models.layers import MaxPool
from edgekd.quiet import quiet

CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification")
SPECTROGRAMS = "ASTForAudioClassification"
ATTENTION = "edgekd"
MASKED = -1e4
"""What is added to the score of a padding token: far enough down for a probability of zero, in float16 too."""
FIRST = ("cls_token", "distillation_token")
"""What vision transformers put before the patches."""
TOKENS, IMAGE = "input_ids", "pixel_values"


class Classifier(nn.Module):
    """A model of transformers that takes one tensor, and returns its logits.

    padding: the id of the token that attention does not look at; None where the inputs are no ids.
    """

    def __init__(self, model: nn.Module, vocabulary: int | None, padding: int | None) -> None:
        super().__init__()
        self.model = model
        if vocabulary is not None and padding is not None:
            self.mask: nn.Embedding | None = nn.Embedding(vocabulary, 1).requires_grad_(False)
            nn.init.zeros_(self.mask.weight)[padding] = MASKED
        else:
            self.mask = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.mask is not None:
            scores = self.mask(inputs).detach().reshape(len(inputs), 1, 1, -1)
            logits: torch.Tensor = self.model(inputs, attention_mask=scores).logits
        else:
            logits = self.model(inputs).logits
        return logits


class Rows(nn.Module):
    """The rows of an embedding that are looked up whatever the input is, as those of positions are."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows


class Projection(nn.Module):
    """Patches of an image as rows: a spectrogram's in the order of time, as it comes in."""

    def __init__(self, patches: Any, turned: bool) -> None:
        super().__init__()
        self.layer: nn.Module = patches.projection
        if turned:
            convolution = self.projection
            convolution.weight = nn.Parameter(convolution.weight.detach().transpose(2, 3).contiguous())
            convolution.stride = convolution.stride[::-1]

    @property
    def projection(self) -> nn.Conv2d:
        """Where transformers looks for the dtype of the weights; the first of two thinner layers has it, too."""
        return next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs).flatten(2).transpose(1, 2)
        return outputs


class Patches(nn.Module):
    """The embeddings of a vision transformer; its first tokens are added to rows of zeros, as positions are."""

    def __init__(self, embeddings: Any, shape: Sequence[int], turned: bool) -> None:
        super().__init__()
        self.patch_embeddings, self.dropout = Projection(embeddings.patch_embeddings, turned), embeddings.dropout
        first = torch.cat([getattr(embeddings, name) for name in FIRST if hasattr(embeddings, name)], dim=1)
        self.first = first.shape[1]
        rows = embeddings.position_embeddings.detach().clone()
        rows[:, : self.first] += first.detach()
        if turned:
            _, _, time, pitch = self.patch_embeddings.layer(torch.zeros(1, *shape)).shape
            patches = rows[:, self.first :].reshape(1, pitch, time, -1).transpose(1, 2).flatten(1, 2)
            rows = torch.cat([rows[:, : self.first], patches], dim=1)
        self.rows = nn.Parameter(rows)

    def forward(self, inputs: torch.Tensor, **others: object) -> torch.Tensor:
        outputs: torch.Tensor = self.dropout(F.pad(self.patch_embeddings(inputs), (0, 0, self.first, 0)) + self.rows)
        return outputs


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that the quantizer and the exporters know; query, key, value: (N, heads, length, width)."""
    mixed = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scaling)
    return mixed.transpose(1, 2).contiguous(), None


def classifier(
    input_shape: Sequence[int],
    classes: int,
    vocabulary: int | None = None,
    *,
    architecture: str,
    config: Mapping[str, Any],
    padding: int | None = None,
) -> Classifier:
    """Build an untrained classifier for inputs (N, *input_shape), float32 or int32 token ids; it returns logits, shape
    (N, classes).

    architecture: the name of its class in transformers. config: its configuration, as plain JSON. Raises UsageError if
    it cannot take such inputs.
    """
    import transformers

    with quiet():
        made = transformers.AutoConfig.for_model(**config, num_labels=classes)
        model = getattr(transformers, architecture)._from_config(made, attn_implementation="eager")
    return adapted(model, input_shape, vocabulary, padding)


def adapted(model: Any, input_shape: Sequence[int], vocabulary: int | None, padding: int | None) -> Classifier:
    """Wrap a model of transformers that has eager attention: it answers as before.

    Raises UsageError if it cannot take such inputs.
    """
    import transformers

    _check_inputs(model, tuple(input_shape), vocabulary)
    transformers.AttentionInterface.register(ATTENTION, attention)
    if model._supports_sdpa:
        model.config._attn_implementation = ATTENTION
    for name, layer in list(model.named_modules()):
        if all(isinstance(getattr(layer, one, None), nn.Parameter) for one in (FIRST[0], "position_embeddings")):
            model.set_submodule(name, Patches(layer, input_shape, type(model).__name__ == SPECTROGRAMS))
        elif isinstance(layer, nn.MaxPool2d) and (layer.kernel_size, layer.padding) == (3, 1):
            model.set_submodule(name, MaxPool(layer.stride))
    wrapped = Classifier(model.eval(), vocabulary, padding)
    if vocabulary is not None:
        _keep_rows(wrapped, input_shape[0], vocabulary)
    return wrapped


def _check_inputs(model: Any, shape: tuple[int, ...], vocabulary: int | None) -> None:
    config, name = model.config, type(model).__name__
    if name == SPECTROGRAMS:
        takes: tuple[int, ...] = (1, config.max_length, config.num_mel_bins)
    elif vocabulary is not None:
        takes = (min(shape[0], getattr(config, "max_position_embeddings", shape[0])),)
    else:
        fixed = any("position" in parameter for parameter, _ in model.named_parameters())
        takes = (getattr(config, "num_channels", shape[0]), *(_pair(config.image_size) if fixed else shape[1:]))
    if takes != shape:
        raise UsageError(f"{name} takes inputs of shape {takes}, the task has {shape}")
    if vocabulary is not None and vocabulary > config.vocab_size:
        raise UsageError(f"{name} knows {config.vocab_size} token ids, the task has {vocabulary}")


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


@torch.no_grad()
def _keep_rows(wrapped: Classifier, length: int, vocabulary: int) -> None:
    """Replace every embedding whose ids do not depend on the input by the rows that they name."""
    seen: dict[str, list[torch.Tensor]] = {}
    layers = {name: layer for name, layer in wrapped.model.named_modules() if isinstance(layer, nn.Embedding)}
    handles = [
        layer.register_forward_pre_hook(lambda _, ids, name=name: seen.setdefault(name, []).append(ids[0]))
        for name, layer in layers.items()
    ]
    first = torch.arange(length, dtype=torch.int32)[None] % vocabulary
    for ids in (first, (first + 1) % vocabulary):
        wrapped(ids)
    for handle in handles:
        handle.remove()
    for name, (one, *others) in seen.items():
        if len(others) == 1 and torch.equal(one, others[0]):
            same = bool((one == one[..., :1]).all())
            wrapped.model.set_submodule(name, Rows(layers[name](one[..., :1] if same else one)))
