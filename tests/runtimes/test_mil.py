"""The interpreter against the arithmetic that coremltools knows for constants, against torch, and by hand."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from torch import nn
from torch.nn import functional as F

from edgekd.errors import ExportError
from edgekd.export.card import Card
from edgekd.export.coreml import export
from edgekd.readers.coreml import Constant, Op, Program, Value, read_program
from edgekd.runtimes.mil import Interpreter

CARD = Card("any", (), "logits", {"input": "features"})
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32)
Y = RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32)
ROWS = RANDOM.normal(size=(3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
WHOLE = RANDOM.integers(-9, 9, (2, 3)).astype(np.int32)
Parameter = np.ndarray | str | list[np.ndarray]


def program_of(kind: str, parameters: dict[str, Parameter], outputs: Sequence[tuple[str, tuple[int, ...]]]) -> Program:
    """One operation on constants."""
    constants: dict[str, Constant] = {}
    inputs = {}
    for key, value in parameters.items():
        values = value if isinstance(value, list) else [value]
        names = tuple(f"{key}.{place}" for place in range(len(values)))
        constants |= dict(zip(names, values, strict=True))
        inputs[key] = names
    made = tuple(Value(f"out{place}", dtype, shape) for place, (dtype, shape) in enumerate(outputs))
    return Program((), made, (Op(kind, "only", inputs, made),), constants, None, (), {})


def computed(
    kind: str, shapes: Sequence[tuple[int, ...]], made: str = "float32", **parameters: Any
) -> list[np.ndarray]:
    program = program_of(kind, parameters, [(made, shape) for shape in shapes])
    return [value.numpy() for value in Interpreter(program).run({}).values()]


def apples(kind: str, parameters: dict[str, Any]) -> list[np.ndarray]:
    """What coremltools makes of an operation whose inputs are all constants."""
    found: list[np.ndarray] = []
    parameters = {key: plain(copy.deepcopy(value)) for key, value in parameters.items()}  # some work in place

    @Builder.program(input_specs=[Builder.TensorSpec((1,))], opset_version=coremltools.target.iOS17)
    def program(x: Any) -> Any:
        made = getattr(Builder, kind)(**parameters)
        for variable in made if isinstance(made, list | tuple) else [made]:
            found.append(np.asarray(variable.val))
        return x

    return found


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def number(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


def index(value: int) -> np.ndarray:
    return np.array(value, dtype=np.int32)


YES, NO = np.array(True), np.array(False)
UNARY = (
    "relu", "relu6", "sigmoid", "softplus", "softsign", "tanh", "abs", "ceil", "cos", "erf", "exp", "floor",
    "round", "sin", "square",
)  # fmt: skip
ARITHMETIC = ("add", "sub", "mul", "real_div", "maximum", "minimum")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"x": X}) for kind in UNARY),
    *((kind, {"x": X, "y": Y}) for kind in ARITHMETIC),
    *((kind, {"x": X, "y": number(0.5)}) for kind in ARITHMETIC),
    *((kind, {"x": np.round(X), "y": np.round(Y)}) for kind in COMPARISONS),
    *(
        (kind, {"x": X, "axes": axes, "keep_dims": keep})
        for kind in ("reduce_mean", "reduce_sum", "reduce_max", "reduce_min")
        for axes, keep in ((ints(1), NO), (ints(-1, 0), YES))
    ),
    ("sqrt", {"x": POSITIVE}),
    ("log", {"x": POSITIVE}),
    ("log", {"x": POSITIVE, "epsilon": number(0.5)}),
    ("rsqrt", {"x": POSITIVE}),
    ("rsqrt", {"x": POSITIVE, "epsilon": number(0.5)}),
    ("pow", {"x": POSITIVE, "y": number(2.5)}),
    ("clip", {"x": X, "alpha": number(-0.5), "beta": number(0.25)}),
    ("leaky_relu", {"x": X, "alpha": number(0.1)}),
    ("elu", {"x": X, "alpha": number(0.7)}),
    ("sigmoid_hard", {"x": X, "alpha": number(0.3), "beta": number(0.4)}),
    ("thresholded_relu", {"x": X, "alpha": number(-0.4)}),
    ("gelu", {"x": X}),
    ("gelu", {"x": X, "mode": "EXACT"}),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}),
    ("softmax", {"x": X, "axis": index(1)}),
    ("softmax", {"x": X}),
    ("identity", {"x": X}),
    ("shape", {"x": X}),
    ("logical_not", {"x": X > 0}),
    ("logical_and", {"x": X > 0, "y": Y > 0}),
    ("logical_or", {"x": X > 0, "y": Y > 0}),
    ("select", {"cond": X > 0, "a": X, "b": Y}),
    ("matmul", {"x": X, "y": Y, "transpose_x": NO, "transpose_y": YES}),
    ("matmul", {"x": X, "y": Y, "transpose_x": YES}),
    ("linear", {"x": ROWS, "weight": RANDOM.normal(size=(5, 4)).astype(np.float32), "bias": np.ones(5, np.float32)}),
    ("layer_norm", {"x": X, "axes": ints(-1)}),
    ("layer_norm", {"x": X, "axes": ints(2, 3), "gamma": Y[0, 0], "beta": Y[1, 1], "epsilon": number(0.1)}),
    ("reshape", {"x": X, "shape": ints(6, -1)}),
    ("transpose", {"x": X, "perm": ints(0, 3, 1, 2)}),
    ("expand_dims", {"x": ROWS, "axes": ints(0, 2)}),
    ("expand_dims", {"x": ROWS, "axes": ints(-1)}),
    ("squeeze", {"x": X[:1, :, :1], "axes": ints(0, 2)}),
    ("squeeze", {"x": X[:1, :, :1]}),
    ("concat", {"values": [X, Y, X], "axis": index(-2), "interleave": NO}),
    ("stack", {"values": [X, Y], "axis": index(2)}),
    ("split", {"x": X, "axis": index(3), "split_sizes": ints(1, 4)}),
    ("slice_by_index", {"x": X, "begin": ints(0, 1, 1, 0), "end": ints(2, 3, 4, 5), "stride": ints(1, 1, 2, 3)}),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": ints(1, 0, 2, -3),
            "end": ints(0, 0, 0, -1),
            "begin_mask": np.array([False, True, False, False]),
            "end_mask": np.array([False, True, True, False]),
            "squeeze_mask": np.array([True, False, False, False]),
        },
    ),
    ("slice_by_size", {"x": X, "begin": ints(0, 1, 1, 2), "size": ints(2, 2, -1, 3)}),
    ("pad", {"x": X, "pad": ints(0, 0, 1, 2, 3, 0), "constant_val": number(7)}),
    ("pad", {"x": X, "pad": ints(1, 2, 0, 3), "mode": "reflect"}),
    ("pad", {"x": X, "pad": ints(1, 2, 0, 3), "mode": "replicate"}),
    ("fill_like", {"ref_tensor": X, "value": number(2.5)}),
    ("tile", {"x": ROWS, "reps": ints(2, 3)}),
    ("gather", {"x": X, "indices": ints(2, 0, 0), "axis": index(1)}),
    ("gather", {"x": ROWS, "indices": np.array([[1, 2], [0, 1]], dtype=np.int32)}),
    ("gather", {"x": X, "indices": index(1), "axis": index(-1), "batch_dims": index(0), "validate_indices": NO}),
    ("gather_along_axis", {"x": ROWS, "indices": np.array([[1, 2, 0, 1]], dtype=np.int32), "axis": index(0)}),
    ("cast", {"x": X * 10, "dtype": "int32"}),
    ("cast", {"x": WHOLE, "dtype": "fp32"}),
    ("cast", {"x": WHOLE, "dtype": "bool"}),
    ("quantize", {"input": X, "scale": number(0.03), "output_dtype": "int8"}),
    ("quantize", {"input": X, "scale": number(0.01), "zero_point": np.uint8(90), "output_dtype": "uint8"}),
    (
        "quantize",
        {
            "input": X,
            "scale": np.array([0.01, 0.02, 0.04], np.float32),
            "zero_point": np.array([1, -2, 3], np.int8),
            "output_dtype": "int8",
            "axis": index(1),
        },
    ),
]  # fmt: skip


def arrays(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: np.asarray(value) if isinstance(value, np.generic) else value for key, value in parameters.items()}


@pytest.mark.parametrize(
    ("kind", "parameters"), CASES, ids=[f"{place}-{kind}" for place, (kind, _) in enumerate(CASES)]
)
def test_an_operation_is_what_coremltools_takes_it_for(kind: str, parameters: dict[str, Any]) -> None:
    expected = apples(kind, parameters)
    dtype = "float32" if expected[0].dtype.kind == "f" else expected[0].dtype.name
    found = computed(kind, [one.shape for one in expected], dtype, **arrays(parameters))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype.kind == other.dtype.kind
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_concat_may_interleave() -> None:
    one, other = np.array([[1, 2], [3, 4]], np.float32), np.array([[5, 6], [7, 8]], np.float32)
    (found,) = computed("concat", [(4, 2)], values=[one, other], axis=index(0), interleave=YES)
    assert found.tolist() == [[1, 2], [5, 6], [3, 4], [7, 8]]


def test_split_makes_equal_parts() -> None:
    parts = computed("split", [(2, 3, 2, 5)] * 2, x=X, axis=index(2), num_splits=index(2))
    np.testing.assert_array_equal(parts[0], X[:, :, :2])
    np.testing.assert_array_equal(parts[1], X[:, :, 2:])


def test_an_inverse_is_off_by_its_epsilon() -> None:
    (found,) = computed("inverse", [(2,)], x=np.array([1, 4], np.float32), epsilon=number(1))
    assert found.tolist() == [0.5, pytest.approx(0.2)]


def test_quantize_rounds_halves_to_even_and_clips() -> None:
    halves = np.array([-300, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 300], dtype=np.float32)
    (found,) = computed("quantize", [(8,)], "int8", input=halves, scale=number(1), output_dtype="int8")
    assert found.tolist() == [-128, -2, -2, 0, 0, 2, 2, 127]
    assert found.dtype == np.int8
    zero = np.array(3, np.uint8)
    (found,) = computed(
        "quantize", [(8,)], "uint8", input=halves, scale=number(0.5), output_dtype="uint8", zero_point=zero
    )
    assert found.tolist() == [0, 0, 0, 2, 4, 6, 8, 255]


@pytest.mark.parametrize(("kind", "data"), [("dequantize", "input"), ("constexpr_affine_dequantize", "quantized_data")])
def test_dequantize_has_one_scale_a_channel(kind: str, data: str) -> None:
    numbers = np.array([[-128, 0, 127], [1, 2, 3]], dtype=np.int8)
    scale, zero = np.array([0.5, 2], np.float32), np.array([1, -1], np.int8)
    program = program_of(
        kind, {data: numbers, "scale": scale, "zero_point": zero, "axis": index(0)}, [("float32", (2, 3))]
    )
    interpreter = Interpreter(program)
    found = interpreter._constants["out0"] if kind.startswith("constexpr") else interpreter.run({})["out0"]
    np.testing.assert_array_equal(found, [[-64.5, -0.5, 63], [4, 6, 8]])


def test_float16_constants_are_widened_and_not_rounded_again() -> None:
    (found,) = computed("mul", [(2,)], x=np.array([1 / 3, 3], np.float16), y=np.array([1 / 3, 1e-4], np.float16))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(np.float16([1 / 3, 3])) * np.float32(np.float16([1 / 3, 1e-4])))


def test_a_convolution_pads_each_side_as_it_is_told() -> None:
    image, kernel = np.zeros((1, 1, 3, 3), np.float32), np.ones((1, 1, 1, 1), np.float32)
    image[0, 0, 0, 0] = 5
    (found,) = computed(
        "conv",
        [(1, 1, 6, 4)],
        x=image,
        weight=kernel,
        pad_type="custom",
        pad=ints(2, 1, 0, 1),
        bias=np.ones(1, np.float32),
    )
    expected = np.ones((6, 4))
    expected[2, 0] = 6
    np.testing.assert_array_equal(found[0, 0], expected)


def test_a_convolution_has_strides_dilations_and_groups() -> None:
    weight = RANDOM.normal(size=(6, 1, 2, 2)).astype(np.float32)
    expected = F.conv2d(torch.from_numpy(X), torch.from_numpy(weight), None, (1, 2), 0, (2, 1), 3).numpy()
    (found,) = computed(
        "conv",
        [expected.shape],
        x=X,
        weight=weight,
        strides=ints(1, 2),
        dilations=ints(2, 1),
        groups=index(3),
        pad_type="valid",
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_batch_norm_is_per_channel() -> None:
    mean, variance = np.array([1, 2, 3], np.float32), np.array([1, 4, 9], np.float32)
    (found,) = computed("batch_norm", [X.shape], x=X, mean=mean, variance=variance, epsilon=number(0))
    shape = (1, 3, 1, 1)
    np.testing.assert_allclose(found, (X - mean.reshape(shape)) / np.sqrt(variance).reshape(shape), rtol=1e-5)


class Many(nn.Module):
    """Several functions of one input, side by side in one output."""

    def __init__(self, functions: Sequence[Callable[..., torch.Tensor]], *layers: nn.Module) -> None:
        super().__init__()
        self.functions, self.layers = functions, nn.ModuleList(layers)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        results = [function(inputs) for function in (*self.functions, *self.layers)]
        return torch.cat([result.reshape(1, -1) for result in results], 1)


ACTIVATIONS = (
    F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.mish, F.elu, F.leaky_relu, F.softplus, torch.sigmoid,
    torch.tanh, lambda x: F.gelu(x, approximate="tanh"), lambda x: x.clamp(-0.5, 0.25), lambda x: torch.softmax(x, 1),
    lambda x: 1 / (1 + x.abs().sqrt()), lambda x: torch.exp(-x.square()), lambda x: torch.maximum(x, x.mean()) ** 2,
)  # fmt: skip
SPATIAL = (
    lambda x: F.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), lambda x: F.avg_pool2d(x, 2),
    lambda x: F.avg_pool2d(x, 3, 2, 1), lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: F.adaptive_avg_pool2d(x, 2), lambda x: x.mean((2, 3)),
    lambda x: F.interpolate(x, scale_factor=2), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    lambda x: F.pad(x, (1, 2, 3, 4), value=2.0), lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    lambda x: torch.cat([x[:, 1:], x[:, :1]], 1) - x, lambda x: x.split([1, 3], 1)[1], lambda x: x[:, ::2, 1:-1, 2],
    lambda x: x.view(1, 2, 2, 8, 8).transpose(1, 2).reshape(1, 4, 8, 8), lambda x: F.pixel_shuffle(x, 2),
    lambda x: x.permute(0, 2, 3, 1).squeeze(0).unsqueeze(1),
)  # fmt: skip
LAYERS = (
    nn.Conv2d(4, 6, 3, padding=1, stride=2),
    nn.Conv2d(4, 8, 3, groups=4, dilation=2),
    nn.Conv2d(4, 2, (5, 3), padding="same"),
    nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
    nn.GroupNorm(2, 4),
    nn.LayerNorm(8),
    nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 3, 5, stride=3), nn.Flatten(), nn.Linear(60, 7)),
)


@pytest.mark.parametrize(
    ("functions", "layers"), [(ACTIVATIONS, ()), (SPATIAL, ()), ((), LAYERS)], ids=["activations", "spatial", "layers"]
)
def test_what_coremltools_emits_is_the_torch_model(
    tmp_path: Path, functions: Sequence[Callable[..., torch.Tensor]], layers: Sequence[nn.Module]
) -> None:
    torch.manual_seed(0)
    model, file = Many(functions, *layers), tmp_path / "many.mlpackage"
    for norm in (one for one in model.modules() if isinstance(one, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    inputs = torch.randn(1, 4, 8, 8)
    export(model.eval(), torch.zeros(1, 4, 8, 8), file, CARD, half=False)
    found = Interpreter(read_program(file)).run({"input": inputs.numpy()})["output"]
    np.testing.assert_allclose(found, model(inputs).detach(), atol=1e-5)


def refused(kind: str, words: str, shapes: Sequence[tuple[int, ...]] = ((1,),), **parameters: Any) -> None:
    with pytest.raises(ExportError, match=words) as caught:
        computed(kind, shapes, **parameters)
    assert f"{kind} that makes 'out0'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_operation_is_refused_by_name() -> None:
    refused("lstm", "does not know", x=X)


def test_an_unknown_parameter_is_refused_by_name() -> None:
    refused("relu", "slope", x=X, slope=number(1))


def test_a_missing_parameter_is_refused_by_name() -> None:
    refused("transpose", "perm", x=X)


@pytest.mark.parametrize(
    ("kind", "words", "parameters"),
    [
        ("gelu", "SIGMOID_APPROXIMATION", {"x": X, "mode": "SIGMOID_APPROXIMATION"}),
        ("conv", "same_lower", {"x": X, "weight": np.ones((1, 3, 2, 2), np.float32), "pad_type": "same_lower"}),
        ("conv", "same", {"x": X, "weight": np.ones((1, 3, 2, 2), np.float32), "pad_type": "same"}),
        (
            "conv",
            "same",
            {"x": X, "weight": np.ones((1, 3, 3, 3), np.float32), "pad_type": "same", "strides": ints(2, 2)},
        ),
        ("max_pool", "both sides", {"x": X, "kernel_sizes": ints(3, 3), "pad_type": "custom", "pad": ints(0, 1, 1, 1)}),
        ("cast", "fp8", {"x": X, "dtype": "fp8"}),
        ("quantize", "int4", {"input": X, "scale": number(1), "output_dtype": "int4"}),
        ("quantize", "axis", {"input": X, "scale": X[0, 0, 0], "output_dtype": "int8"}),
        ("pad", "circular", {"x": X, "pad": ints(1, 1), "mode": "circular"}),
        ("gather", "batch_dims", {"x": X, "indices": ints(0), "batch_dims": index(1)}),
        ("gather", "-1", {"x": X, "indices": ints(-1)}),
        ("gather", "out of", {"x": X, "indices": ints(2)}),
        ("layer_norm", "axes", {"x": X, "axes": ints(1)}),
        ("reshape", "shape", {"x": X, "shape": ints(0, 60)}),
        ("reshape", "shape", {"x": X, "shape": ints(7, 7)}),
        ("split", "num_splits", {"x": X, "axis": index(0)}),
        ("classify", "2 classes for 120", {"probabilities": X, "classes": ("a", "b")}),
    ],
)
def test_a_setting_that_is_not_known_is_refused_by_name(kind: str, words: str, parameters: dict[str, Any]) -> None:
    refused(kind, words, **parameters)


def test_a_shape_that_is_not_as_declared_is_refused() -> None:
    refused("relu", r"shape \(2, 3, 4, 5\), the file says \(1, 3, 4, 5\)", [(1, 3, 4, 5)], x=X)


def test_a_dtype_that_is_not_as_declared_is_refused() -> None:
    refused("relu", "dtype", [X.shape], made="int32", x=X)


def test_outputs_that_are_too_few_are_refused() -> None:
    refused("split", "2 outputs, the file says 1", [(1, 3, 4, 5)], x=X, axis=index(0), num_splits=index(2))
