"""The one quantized form of a student, which every exporter starts from and none recalibrates."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from edgekd.compress import nncf_backend
from edgekd.compress.fold import fold_batch_norm
from edgekd.compress.quantizers import Quantizer, output_scale
from edgekd.compress.weights import Layer
from edgekd.errors import ExportError
from edgekd.models.build import Architecture, build, example_input, write_tensors

ops = torch.ops.quantized_decomposed
WEIGHTED = Layer | nn.Embedding


@dataclass(frozen=True)
class QuantizedProgram:
    """A quantization-aware trained model and what its quantizers have learned.

    model: the NNCF model, float arithmetic with quantizers; parity is measured against it.
    example: zeros of shape (1, ...), float32.
    table: every quantizer, in the order of the graph.
    """

    model: nn.Module
    example: torch.Tensor
    table: tuple[Quantizer, ...]

    @classmethod
    def of(cls, model: nn.Module, example: torch.Tensor) -> "QuantizedProgram":
        """Read the table from a trained NNCF model, and round its biases to what a runtime can hold.

        Raises ExportError for an activation that is quantized per channel, which no format can hold.
        """
        table = tuple(_quantizer(placed, model) for placed in nncf_backend.quantizers_of(model, example))
        _round_biases(model, table)
        return cls(model.eval(), example, table)

    @property
    def output_scale(self) -> float:
        """The scale of the output: one step of it is one LSB of an answer."""
        return output_scale(self.table)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Module paths of the layers whose weights are not quantized, where a runtime computes in float."""
        quantized = {entry.tensor for entry in self.table if entry.kind == "weight"}
        layers = ((name, layer) for name, layer in self.model.named_modules() if isinstance(layer, WEIGHTED))
        return tuple(name for name, layer in layers if f"{name}.weight" not in quantized)

    def frozen(self, stored: bool, unsigned: bool = False, activations: bool = True) -> nn.Module:
        """A copy whose quantizers are explicit quantize and dequantize operations with the learned numbers.

        stored=True keeps weights as int8 with a dequantize; False keeps them float, rounded, with quantize and
        dequantize, which is what LiteRT's converter wants; an embedding is only rounded. unsigned=True holds
        activations as uint8 with the zero point moved by 128, which is what ONNX Runtime is fast with. The values are
        the same in every form. activations=False leaves activations float: then only the weights are those of the
        quantized program.
        """
        model = copy.deepcopy(self.model)
        places = nncf_backend.quantizers_of(self.model, self.example)
        lookups: dict[str, StoredEmbedding] = {}
        for entry, placed in zip(self.table, places, strict=True):
            if entry.kind == "weight":
                owner, _, leaf = placed.tensor.rpartition(".")
                layer: Any = model.get_submodule(owner)
                if stored and isinstance(layer, nn.Embedding) and len(placed.hooks) == 1:
                    rows = StoredEmbedding(StoredWeight(entry, layer.weight))
                    model.set_submodule(owner, rows)
                    lookups[nncf_backend.operation_of(placed.hooks[0])] = rows
                else:
                    _freeze_weight(model, getattr(layer, leaf), entry, stored)
            keep = entry.kind == "activation" and activations
            frozen = QuantizedActivation(entry, unsigned) if keep else None
            lookup = lookups.get(nncf_backend.operation_of(placed.hooks[0]))
            if frozen is not None and lookup is not None:
                lookup.after, frozen = frozen, None
            nncf_backend.replace_quantizers(model, placed.hooks, frozen)
        return model.eval()

    def weights_only(self) -> nn.Module:
        """A copy of the trained model with its activations float."""
        model = copy.deepcopy(self.model)
        for entry, placed in zip(self.table, nncf_backend.quantizers_of(self.model, self.example), strict=True):
            if entry.kind == "activation":
                nncf_backend.replace_quantizers(model, placed.hooks, None)
        return model.eval()


def _round_biases(model: nn.Module, table: tuple[Quantizer, ...]) -> None:
    """Make biases whole multiples of input scale times weight scale; not where a layer has inputs of several scales."""
    steps: dict[str, set[tuple[float, ...]]] = {}
    for entry in table:
        sources = [table[position] for position in entry.sources if entry.kind == "activation"]
        weights = [one for one in sources if one.kind == "weight"]
        inputs = [one for one in sources if one.kind == "activation"]
        if len(weights) == len(inputs) == 1:
            step = torch.tensor(weights[0].scale) * inputs[0].scale[0]
            steps.setdefault(weights[0].tensor.rpartition(".")[0], set()).add(tuple(step.tolist()))
    for name, found in steps.items():
        bias, step = getattr(model.get_submodule(name), "bias", None), torch.tensor(found.pop())
        if isinstance(bias, nn.Parameter) and bias.shape == step.shape and not found:
            bias.data = torch.round(bias.detach() / step) * step


def _freeze_weight(model: nn.Module, weight: nn.Parameter, entry: Quantizer, stored: bool) -> None:
    """Put the quantizer's numbers in wherever a weight is; two layers may have the same one."""
    form = StoredWeight(entry, weight) if stored else FakeQuantizedWeight(entry)
    rounded = weight if stored else nn.Parameter(form(weight).detach())
    for layer in list(model.modules()):
        for leaf in [leaf for leaf, one in layer.named_parameters(recurse=False) if one is weight]:
            setattr(layer, leaf, rounded)
            if stored or not isinstance(layer, nn.Embedding):
                parametrize.register_parametrization(layer, leaf, form, unsafe=True)


class QuantizedActivation(nn.Module):
    """Quantize to int8, or to uint8 with all numbers moved by 128, and back, per tensor."""

    def __init__(self, entry: Quantizer, unsigned: bool) -> None:
        super().__init__()
        shift, dtype = (128, torch.uint8) if unsigned else (0, torch.int8)
        self.numbers = (entry.scale[0], entry.zero_point[0] + shift, entry.low + shift, entry.high + shift, dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        numbers = self.numbers
        outputs: torch.Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(inputs, *numbers), *numbers)
        return outputs


class FakeQuantizedWeight(nn.Module):
    """A float weight, quantized to int8 and back: per channel, or with one scale where the entry has no axis."""

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, entry: Quantizer) -> None:
        super().__init__()
        self.entry = entry
        self.register_buffer("scale", torch.tensor(entry.scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(entry.zero_point, dtype=torch.int64))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return self.dequantize(self.quantize(weight))

    def quantize(self, weight: torch.Tensor) -> torch.Tensor:
        per_tensor = self.entry.axis is None
        quantize = ops.quantize_per_tensor if per_tensor else ops.quantize_per_channel
        stored: torch.Tensor = quantize(weight, *self._numbers())
        return stored

    def dequantize(self, stored: torch.Tensor) -> torch.Tensor:
        per_tensor = self.entry.axis is None
        dequantize = ops.dequantize_per_tensor if per_tensor else ops.dequantize_per_channel
        weight: torch.Tensor = dequantize(stored, *self._numbers())
        return weight

    def _numbers(self) -> tuple[object, ...]:
        entry = self.entry
        if entry.axis is None:
            return (entry.scale[0], entry.zero_point[0], entry.low, entry.high, torch.int8)
        return (self.scale, self.zero_point, entry.axis, entry.low, entry.high, torch.int8)


class StoredWeight(FakeQuantizedWeight):
    """The same weight kept as int8: the float one is not used any more."""

    stored: torch.Tensor

    def __init__(self, entry: Quantizer, weight: torch.Tensor) -> None:
        super().__init__(entry)
        self.register_buffer("stored", self.quantize(weight.detach()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return self.dequantize(self.stored)


class StoredEmbedding(nn.Module):
    """An embedding that looks up int8 rows and dequantizes those alone.

    after: the quantizer of its output, which cannot be a hook of the lookup: that gives integers now.
    """

    def __init__(self, form: StoredWeight) -> None:
        super().__init__()
        self.form = form
        self.after: nn.Module = nn.Identity()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.after(self.form.dequantize(nn.functional.embedding(ids, self.form.stored)))
        return outputs


def save_program(program: QuantizedProgram, architecture_file: Path, folder: Path) -> None:
    """Write what `load_program` needs: weights and ranges, where the quantizers sit, and the architecture."""
    state = {name: tensor.detach().contiguous().clone() for name, tensor in program.model.state_dict().items()}
    write_tensors(state, folder / "weights.safetensors")
    (folder / "quantizers.json").write_text(json.dumps(nncf_backend.get_config(program.model), sort_keys=True))
    (folder / "architecture.json").write_bytes(architecture_file.read_bytes())


def load_program(folder: Path, architecture: Architecture) -> QuantizedProgram:
    """Exactly the program that was saved: the same outputs, the same table."""
    example = example_input(architecture)
    model = fold_batch_norm(build(architecture, "student"), example)
    restored = nncf_backend.restore(model, json.loads((folder / "quantizers.json").read_text()))
    restored.load_state_dict(load_file(folder / "weights.safetensors"))
    return QuantizedProgram.of(restored, example)


def _quantizer(placed: nncf_backend.PlacedQuantizer, model: nn.Module) -> Quantizer:
    quantizer = placed.quantizer
    low, high, scale, zero_point = quantizer.get_parameters_for_torch_fq()
    if not placed.is_weight:
        if scale.numel() != 1:
            raise ExportError(f"{placed.tensor}: its activation is quantized per channel, which no runtime takes")
        shift = 128 if low == 0 else 0  # an unsigned 8-bit quantizer is the same numbers in int8, moved by 128
        return Quantizer(
            tensor=placed.tensor,
            kind="activation",
            scale=(float(scale),),
            zero_point=(int(zero_point) - shift,),
            low=int(low) - shift,
            high=int(high) - shift,
            sources=placed.sources,
        )
    shape = tuple(quantizer.scale_shape)
    axis = None if len(shape) == 1 else max(range(len(shape)), key=lambda dimension: shape[dimension])
    channels = 1 if axis is None else model.get_parameter(placed.tensor).shape[axis]
    return Quantizer(
        tensor=placed.tensor,
        kind="weight",
        scale=tuple(scale.expand(channels).tolist()),
        zero_point=(0,) * channels,
        low=int(quantizer.level_low),
        high=int(quantizer.level_high),
        axis=axis,
    )
