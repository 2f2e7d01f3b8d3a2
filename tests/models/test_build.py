import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekd.errors import UsageError
from edgekd.models.build import Architecture, build, load_module, load_weights, save_module
from edgekd.models.ds_cnn import ds_cnn


def one_class_too_many(input_shape: Sequence[int], classes: int) -> nn.Module:
    return nn.Linear(input_shape[0], classes + 1)


def not_a_module(input_shape: Sequence[int], classes: int) -> str:
    return "resnet"


def other_input(input_shape: Sequence[int], classes: int) -> nn.Module:
    return nn.Linear(input_shape[0] + 3, classes)


def failing(input_shape: Sequence[int], classes: int) -> nn.Module:
    raise RuntimeError("no such\nbackbone")


class Wordless(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise ValueError


def failing_without_a_word(input_shape: Sequence[int], classes: int) -> nn.Module:
    return Wordless()


def feature_map(input_shape: Sequence[int], classes: int) -> nn.Module:
    return nn.Unflatten(1, (1, input_shape[0]))


class Pair(nn.Module):
    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs, inputs


def two_outputs(input_shape: Sequence[int], classes: int) -> nn.Module:
    return Pair()


def linear(input_shape: Sequence[int], classes: int, *, scale: float = 1.0) -> nn.Module:
    layer = nn.Linear(input_shape[0], classes)
    nn.init.constant_(layer.weight, scale)
    return layer


def architecture(function: str, **args: Any) -> Architecture:
    return Architecture(f"{__name__}:{function}", args, (4,), 3)


def refusal(wanted: Architecture) -> str:
    with pytest.raises(UsageError) as caught:
        build(wanted, "student")
    message = str(caught.value)
    assert "\n" not in message
    return message


def weights_refusal(module: nn.Module, file: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_weights(module, file, "teacher")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("teacher.weights")
    assert str(file) in message
    return message


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return ds_cnn((1, 8, 8), 3, width=4, blocks=1)


def saved(state: object, file: Path, **options: bool) -> Path:
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, **options)
    return file


def test_builds_a_model_of_this_package_by_its_family_name() -> None:
    built = build(Architecture("ds_cnn", {"width": 8, "blocks": 1}, (1, 8, 8), 3), "student")
    assert built(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert not built.training


def test_builds_a_users_model_with_its_arguments() -> None:
    built = build(architecture("linear", scale=2.5), "student")
    assert (built.weight == 2.5).all()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("one_class_too_many", "4 outputs, the data has 3 classes"),
        ("not_a_module", "str"),
        ("other_input", "(1, 4)"),
        ("failing", "no such backbone"),
        ("failing_without_a_word", "(1, 4)"),
        ("feature_map", "(N, classes)"),
        ("two_outputs", "(N, classes)"),
        ("liner", "did you mean 'linear'?"),
    ],
)
def test_refuses_a_model_that_does_not_fit_by_its_reference(function: str, said: str) -> None:
    message = refusal(architecture(function))
    assert f"{__name__}:{function}" in message
    assert said in message


def test_refuses_an_unknown_module() -> None:
    assert "no_such_module" in refusal(Architecture("no_such_module:model", {}, (4,), 3))


def test_refuses_an_unknown_argument() -> None:
    assert "widht" in refusal(architecture("linear", widht=3))


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    wanted = Architecture("ds_cnn", {"width": 4, "blocks": 1}, (1, 8, 8), 3)
    original = model().eval()
    save_module(original, wanted, tmp_path)
    restored, read = load_module(tmp_path, "student")
    inputs = torch.randn(5, 1, 8, 8)
    assert read == wanted
    assert torch.equal(restored(inputs), original(inputs))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.pth"])
def test_weights_of_either_kind_are_loaded(tmp_path: Path, name: str) -> None:
    source, other = model(0).eval(), model(1).eval()
    load_weights(other, saved(source.state_dict(), tmp_path / name), "teacher")
    inputs = torch.randn(5, 1, 8, 8)
    assert torch.equal(other(inputs), source(inputs))


def test_weights_of_the_old_torch_format_are_loaded(tmp_path: Path) -> None:
    file = saved(model(0).state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    other = model(1)
    load_weights(other, file, "teacher")
    assert torch.equal(other.classifier.weight, model(0).classifier.weight)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.mark.parametrize("form", ["pickle", "torch", "old torch"])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, form: str) -> None:
    marker, file = tmp_path / "ran", tmp_path / "weights.pt"
    content = {"weight": Trap(marker)}
    pickle.loads(pickle.dumps(content))
    assert marker.exists()
    marker.unlink()
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "torch")
    assert "state dict" in weights_refusal(nn.Linear(4, 3), file)
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    assert "state_dict()" in weights_refusal(nn.Linear(4, 3), saved(nn.Linear(4, 3), tmp_path / "module.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, name: str, value: float) -> None:
    state = model().state_dict()
    state["classifier.weight"][1, 2] = value
    assert "'classifier.weight'" in weights_refusal(model(), saved(state, tmp_path / name))


def test_weights_too_large_for_float32_are_named(tmp_path: Path) -> None:
    state = {"weight": torch.full((3, 4), 1e300, dtype=torch.float64), "bias": torch.zeros(3)}
    assert "'weight'" in weights_refusal(nn.Linear(4, 3), saved(state, tmp_path / "wide.pt"))


def test_a_missing_tensor_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    state = model().state_dict()
    state["clasifier.weight"] = state.pop("classifier.weight")
    message = weights_refusal(model(), saved(state, tmp_path / "weights.pt"))
    assert "has no 'classifier.weight'" in message
    assert "did you mean 'clasifier.weight'?" in message


def test_an_unexpected_tensor_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    state = {**model().state_dict(), "classifier.weights": torch.zeros(3, 4)}
    message = weights_refusal(model(), saved(state, tmp_path / "weights.safetensors"))
    assert "'classifier.weights'" in message
    assert "did you mean 'classifier.weight'?" in message


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    state = {**model().state_dict(), "classifier.weight": torch.zeros(7, 4)}
    message = weights_refusal(model(), saved(state, tmp_path / "weights.pt"))
    assert "'classifier.weight'" in message
    assert "(7, 4)" in message
    assert "(3, 4)" in message


def test_a_refused_file_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    module, state = model(0), model(1).state_dict()
    state["classifier.bias"][0] = float("nan")
    weights_refusal(module, saved(state, tmp_path / "weights.pt"))
    assert torch.equal(module.classifier.weight, model(0).classifier.weight)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "old.pt"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    options = {"_use_new_zipfile_serialization": False} if name == "old.pt" else {}
    file = saved(nn.Linear(4, 3).state_dict(), tmp_path / name, **options)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    weights_refusal(nn.Linear(4, 3), file)


def test_a_damaged_file_is_loaded_or_refused_but_never_crashes(tmp_path: Path) -> None:
    buffers = []
    for modern in (True, False):
        stream = io.BytesIO()
        torch.save(nn.Linear(4, 3).state_dict(), stream, _use_new_zipfile_serialization=modern)
        buffers.append(stream.getvalue())
    rng, file, refused = np.random.default_rng(0), tmp_path / "damaged.pt", 0
    for attempt in range(200):
        content = bytearray(buffers[attempt % 2])
        for _ in range(3):
            content[rng.integers(len(content))] = rng.integers(256)
        file.write_bytes(content)
        try:
            load_weights(nn.Linear(4, 3), file, "teacher")
        except UsageError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("content", [b"hello, this is text\n" * 20, b'{"weight": 1}', b"\x80\x02"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    weights_refusal(nn.Linear(4, 3), file)


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(3)], torch.zeros(3), {"weight": 1.0}, {1: torch.zeros(3)}, {"weight": torch.zeros(3, 4).to_sparse()}],
    ids=["list", "tensor", "number", "numbered", "sparse"],
)
def test_what_is_not_a_plain_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    weights_refusal(nn.Linear(4, 3, bias=False), saved(content, tmp_path / "weights.pt"))


@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors", ""])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    assert "not a file" in weights_refusal(model(), tmp_path / name)
