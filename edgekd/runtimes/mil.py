"""A reference interpreter for MIL, the language of Core ML's ML programs: each operation in plain torch on the CPU.

It checks the graph and the constants of a file, not Apple's arithmetic. Everything is computed in float32; float16
constants are widened, and a cast to float16 does not round. What an app gets on a device can differ by that much.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekd.errors import ExportError, first_line
from edgekd.readers.coreml import Constant, Op, Program, Value

Result = Tensor | Sequence[Tensor]
CASTS = {
    "fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32, "int16": torch.int32, "uint16": torch.int32,
    "int8": torch.int8, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
"""What stands for a dtype here: two kinds of float and three of integer are one."""


class Interpreter:
    """A program that is ready to run.

    Raises ExportError for an operation or a parameter that the interpreter does not know, naming the output that it
    makes.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        for op in program.ops:
            _check(op)
        self._constants: dict[str, Any] = {name: _widened(value) for name, value in program.constants.items()}
        for op in program.ops:
            if not op.computed:
                self._constants |= _outputs(op, self._constants)
        self._ops = [op for op in program.ops if op.computed]

    @torch.no_grad()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Inputs by name, of the shapes that the program declares, to every value that is computed, by name.

        Floats are float32, quantized tensors int8 or uint8, other integers int32. Raises ExportError, naming the
        output at fault, for what the interpreter cannot compute or what does not have its declared shape.
        """
        values = dict(self._constants)
        for declared in self.program.inputs:
            values[declared.name] = torch.from_numpy(np.ascontiguousarray(inputs[declared.name]))
        computed: dict[str, Tensor] = {}
        for op in self._ops:
            outputs = _outputs(op, values)
            values |= outputs
            computed |= outputs
        return computed


def _check(op: Op) -> None:
    if op.kind not in OPS:
        raise _refusal(op, "the reference interpreter does not know this operation")
    try:
        inspect.signature(OPS[op.kind]).bind(**op.inputs)
    except TypeError as error:
        raise _refusal(op, first_line(error)) from error


def _outputs(op: Op, values: Mapping[str, Any]) -> dict[str, Tensor]:
    arguments = {
        key: [values[name] for name in names] if key == "values" else values[names[0]]
        for key, names in op.inputs.items()
    }
    try:
        result = OPS[op.kind](**arguments)
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _refusal(op, first_line(error)) from error
    results = [result] if isinstance(result, Tensor) else list(result)
    if len(results) != len(op.outputs):
        raise _refusal(op, f"{len(results)} outputs, the file says {len(op.outputs)}")
    for declared, found in zip(op.outputs, results, strict=True):
        _check_output(op, declared, found)
    return {declared.name: found for declared, found in zip(op.outputs, results, strict=True)}


def _check_output(op: Op, declared: Value, found: Tensor) -> None:
    if tuple(found.shape) != declared.shape:
        raise _refusal(op, f"shape {tuple(found.shape)}, the file says {declared.shape}")
    if found.is_floating_point() != declared.dtype.startswith("float"):
        raise _refusal(op, f"dtype {found.dtype}, the file says {declared.dtype}")


def _refusal(op: Op, reason: str) -> ExportError:
    name = op.outputs[0].name if op.outputs else op.name
    return ExportError(f"Core ML program, {op.kind} that makes '{name}': {reason}")


def _widened(constant: Constant) -> Any:
    if not isinstance(constant, np.ndarray):
        return constant
    wide = {"float16": "float32", "int16": "int32", "uint16": "int32"}.get(constant.dtype.name, constant.dtype.name)
    return torch.from_numpy(constant.astype(wide))


def _numbers(tensor: Tensor) -> list[int]:
    return [int(one) for one in tensor.reshape(-1).tolist()]


def _along(numbers: Tensor, axis: Tensor | None, rank: int) -> Tensor:
    """Scales or zero points as float32, shaped to be multiplied along their axis; one alone fits any shape."""
    numbers = numbers.float()
    if numbers.ndim == 0:
        return numbers
    if axis is None:
        raise ValueError("several scales and no axis")
    shape = [1] * rank
    shape[int(axis)] = -1
    return numbers.reshape(shape)


def _padding(pad_type: str, pad: Tensor | None, kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Elements before and after each dimension, first dimension first. `kernel` counts dilation."""
    match pad_type:
        case "valid":
            return [0] * (2 * len(kernel))
        case "custom":
            return [0] * (2 * len(kernel)) if pad is None else _numbers(pad)
        case "same" if all(size % 2 for size in kernel) and set(strides) == {1}:
            return [size // 2 for size in kernel for _ in range(2)]
    raise ValueError(f"pad_type '{pad_type}' with a kernel of {tuple(kernel)} and strides of {tuple(strides)}")


def _padded(x: Tensor, padding: Sequence[int], value: float = 0.0, mode: str = "constant") -> Tensor:
    """torch wants the last dimension first, and no dimensions that stay as they are but for constants."""
    pairs = [tuple(padding[place : place + 2]) for place in range(0, len(padding), 2)]
    if mode != "constant":
        while pairs and pairs[0] == (0, 0):
            pairs.pop(0)
    turned = [side for pair in reversed(pairs) for side in pair]
    return F.pad(x, turned, mode, value) if mode == "constant" else F.pad(x, turned, mode)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    rank = weight.ndim - 2
    steps = [1] * rank if strides is None else _numbers(strides)
    spread = [1] * rank if dilations is None else _numbers(dilations)
    kernel = [(size - 1) * gap + 1 for size, gap in zip(weight.shape[2:], spread, strict=True)]
    x = _padded(x, _padding(pad_type, pad, kernel, steps))
    function: Callable[..., Tensor] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    return function(x, weight, bias, steps, 0, spread, 1 if groups is None else int(groups))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | None = None, transpose_y: Tensor | None = None) -> Tensor:
    x = x.mT if transpose_x is not None and transpose_x else x
    return x @ (y.mT if transpose_y is not None and transpose_y else y)


def _pool(
    average: bool,
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None,
    pad_type: str,
    pad: Tensor | None,
    ceil_mode: Tensor | None,
    with_padding: bool = True,
) -> Tensor:
    kernel = _numbers(kernel_sizes)
    steps = [1] * len(kernel) if strides is None else _numbers(strides)
    padding = _padding(pad_type, pad, kernel, steps)
    if padding[::2] != padding[1::2]:
        raise ValueError(f"a pad of {tuple(padding)}, which is not the same on both sides")
    ceil = ceil_mode is not None and bool(ceil_mode)
    if average:
        mean: Callable[..., Tensor] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
        return mean(x, kernel, steps, padding[::2], ceil, with_padding)
    largest: Callable[..., Tensor] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel)]
    return largest(x, kernel, steps, padding[::2], 1, ceil)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    with_padding = exclude_padding_from_average is None or not exclude_padding_from_average
    return _pool(True, x, kernel_sizes, strides, pad_type, pad, ceil_mode, with_padding)


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    return _pool(False, x, kernel_sizes, strides, pad_type, pad, ceil_mode)


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | None = None) -> Tensor:
        places = list(range(x.ndim)) if axes is None else _numbers(axes)
        return function(x, places, keepdim=keep_dims is not None and bool(keep_dims))

    return reduce


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-5 if epsilon is None else float(epsilon))


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Tensor | None = None
) -> Tensor:
    return F.instance_norm(x, weight=gamma, bias=beta, eps=1e-5 if epsilon is None else float(epsilon))


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    places = list(range(x.ndim)) if axes is None else sorted(axis % x.ndim for axis in _numbers(axes))
    if places != list(range(x.ndim - len(places), x.ndim)):
        raise ValueError(f"axes {tuple(places)} of {x.ndim}, which are not the last")
    eps = 1e-5 if epsilon is None else float(epsilon)
    return F.layer_norm(x, [x.shape[axis] for axis in places], gamma, beta, eps)


def softmax(x: Tensor, axis: Tensor | None = None) -> Tensor:
    return torch.softmax(x, -1 if axis is None else int(axis))


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x.clamp(float(alpha), float(beta))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    match mode:
        case "EXACT":
            return F.gelu(x)
        case "TANH_APPROXIMATION":
            return F.gelu(x, approximate="tanh")
    raise ValueError(f"mode '{mode}'")


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.leaky_relu(x, float(alpha))


def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return F.elu(x, float(alpha))


def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros(()))


def log(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return torch.log(x + (1e-45 if epsilon is None else epsilon))


def inverse(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return 1 / (x + (1e-4 if epsilon is None else epsilon))


def rsqrt(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    return torch.rsqrt(x + (1e-12 if epsilon is None else epsilon))


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | None = None) -> Tensor:
    place = int(axis) % values[0].ndim
    if interleave is not None and interleave:
        return torch.stack(list(values), place + 1).flatten(place, place + 1)
    return torch.cat(list(values), place)


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(list(values), int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> Sequence[Tensor]:
    if split_sizes is not None:
        return torch.split(x, _numbers(split_sizes), int(axis))
    if num_splits is None:
        raise ValueError("neither num_splits nor split_sizes")
    return torch.tensor_split(x, int(num_splits), int(axis))


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    sides = _numbers(shape)
    if 0 in sides:
        raise ValueError(f"a shape of {tuple(sides)}")
    return x.reshape(sides)


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(_numbers(perm))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in _numbers(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(_numbers(axes))


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    index: list[slice | int] = []
    for axis in range(x.ndim):
        first, last = (
            None if mask is not None and mask[axis] else int(place[axis])
            for place, mask in ((begin, begin_mask), (end, end_mask))
        )
        if squeeze_mask is not None and squeeze_mask[axis]:
            index.append(first or 0)
        else:
            index.append(slice(first, last, 1 if stride is None else int(stride[axis])))
    return x[tuple(index)]


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    places = zip(_numbers(begin), _numbers(size), strict=True)
    return x[tuple(slice(first, None if count < 0 else first + count) for first, count in places)]


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | None = None) -> Tensor:
    if mode not in ("constant", "reflect", "replicate"):
        raise ValueError(f"mode '{mode}'")
    return _padded(x, _numbers(pad), 0.0 if constant_val is None else float(constant_val), mode)


def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(_numbers(reps))


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    filling = torch.zeros(()) if value is None else value
    return filling.expand(ref_tensor.shape).clone()


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | None = None,
    batch_dims: Tensor | None = None,
    validate_indices: Tensor | None = None,
) -> Tensor:
    """Whatever `validate_indices` says, an index that is not there is an error here."""
    if batch_dims is not None and int(batch_dims):
        raise ValueError(f"batch_dims {int(batch_dims)}")
    place = 0 if axis is None else int(axis) % x.ndim
    if indices.numel() and int(indices.min()) < 0:
        raise ValueError(f"an index of {int(indices.min())}")
    chosen = x.index_select(place, indices.reshape(-1).long())
    return chosen.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | None = None, validate_indices: Tensor | None = None
) -> Tensor:
    return torch.gather(x, 0 if axis is None else int(axis), indices.long())


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor | None = None, scale_factor_width: Tensor | None = None
) -> Tensor:
    factors = [1.0 if one is None else float(one) for one in (scale_factor_height, scale_factor_width)]
    return F.interpolate(x, scale_factor=factors, mode="nearest")


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
    align_corners: Tensor | None = None,
) -> Tensor:
    factors = [1.0 if one is None else float(one) for one in (scale_factor_height, scale_factor_width)]
    aligned = align_corners is None or bool(align_corners)
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=aligned, recompute_scale_factor=True)


def pixel_shuffle(x: Tensor, upscale_factor: Tensor) -> Tensor:
    return F.pixel_shuffle(x, int(upscale_factor))


def cast(x: Tensor, dtype: str) -> Tensor:
    if dtype not in CASTS:
        raise ValueError(f"dtype '{dtype}'")
    return x.to(CASTS[dtype])


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """Rounded to nearest, halves to even; a number that does not fit is clipped."""
    if output_dtype not in ("int8", "uint8"):
        raise ValueError(f"output_dtype '{output_dtype}'")
    limits = torch.iinfo(CASTS[output_dtype])
    numbers = torch.round(input / _along(scale, axis, input.ndim))
    if zero_point is not None:
        numbers = numbers + _along(zero_point, axis, input.ndim)
    return numbers.clamp(limits.min, limits.max).to(CASTS[output_dtype])


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    numbers = input.float()
    if zero_point is not None:
        numbers = numbers - _along(zero_point, axis, input.ndim)
    return numbers * _along(scale, axis, input.ndim)


def constexpr_affine_dequantize(quantized_data: Tensor, scale: Tensor, zero_point: Tensor, axis: Tensor) -> Tensor:
    return dequantize(quantized_data, scale, zero_point, axis)


def classify(probabilities: Tensor, classes: tuple[str, ...]) -> Sequence[Tensor]:
    """Names the classes: nothing is computed. The answer is the probabilities themselves."""
    if len(classes) != probabilities.numel():
        raise ValueError(f"{len(classes)} classes for {probabilities.numel()} probabilities")
    return ()


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor) -> Tensor:
        return function(x)

    return apply


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def apply(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return apply


def _shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


OPS: dict[str, Callable[..., Result]] = {
    function.__name__: function
    for function in (
        conv, linear, matmul, avg_pool, max_pool, batch_norm, instance_norm, layer_norm, softmax, clip, gelu,
        leaky_relu, elu, sigmoid_hard, thresholded_relu, log, inverse, rsqrt, select, concat, stack, split, reshape,
        transpose, expand_dims, squeeze, slice_by_index, slice_by_size, pad, tile, gather, gather_along_axis,
        fill_like, upsample_nearest_neighbor, upsample_bilinear, pixel_shuffle, cast, quantize, dequantize,
        constexpr_affine_dequantize, classify,
    )
} | {
    "identity": _unary(lambda x: x),
    "shape": _unary(_shape),
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(F.silu),
    "softplus": _unary(F.softplus),
    "softsign": _unary(F.softsign),
    "tanh": _unary(torch.tanh),
    "abs": _unary(torch.abs),
    "ceil": _unary(torch.ceil),
    "cos": _unary(torch.cos),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "floor": _unary(torch.floor),
    "logical_not": _unary(torch.logical_not),
    "round": _unary(torch.round),
    "sin": _unary(torch.sin),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.div),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "pow": _binary(torch.pow),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "reduce_mean": _reduced(torch.mean),
    "reduce_sum": _reduced(torch.sum),
    "reduce_max": _reduced(torch.amax),
    "reduce_min": _reduced(torch.amin),
}  # fmt: skip
"""Every operation by its name in MIL; the parameters of a function are those of the operation."""
