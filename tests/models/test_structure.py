import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.models.build import Architecture, build, load_architecture, load_module, parameter_count, save_module
from edgekd.models.ds_cnn import ds_cnn
from edgekd.models.resnet import resnet
from edgekd.models.structure import apply_edit, resize_between
from edgekd.models.text_encoder import text_encoder

WIDE = Architecture("ds_cnn", {"width": 8, "blocks": 2}, (1, 8, 8), 3)
MODELS: dict[str, tuple[Callable[[int], nn.Module], torch.Tensor]] = {
    "ds_cnn": (lambda width: ds_cnn((1, 8, 8), 3, width=width, blocks=2), torch.randn(4, 1, 8, 8)),
    "resnet": (lambda width: resnet((1, 8, 8), 3, width=width), torch.randn(4, 1, 8, 8)),
    "text_encoder": (
        lambda width: text_encoder((5,), 3, 20, width=width, heads=width // 4, hidden=2 * width),
        torch.randint(0, 20, (4, 5), dtype=torch.int32),
    ),
}


class Odd(nn.Module):
    """A module of the user's own: a tied weight, a buffer, a row of sizes, and a word."""

    def __init__(self, width: int, mode: str = "mean") -> None:
        super().__init__()
        self.sizes, self.mode = (width, 4), mode
        self.inner, self.outer = nn.Linear(4, width, bias=False), nn.Linear(4, width, bias=False)
        self.outer.weight = self.inner.weight
        self.register_buffer("shift", torch.arange(width).float())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs) + self.outer(inputs) + self.shift


class Half(Odd):
    pass


def narrow() -> tuple[nn.Module, dict[str, Any]]:
    """A network of half the width of WIDE, and the edit that leads there."""
    smaller = ds_cnn((1, 8, 8), 3, width=4, blocks=2).eval()
    return smaller, resize_between(build(WIDE, "student"), smaller)


def edit_refusal(edit: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        apply_edit(build(WIDE, "student"), edit)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def difference_refusal(original: nn.Module, changed: nn.Module) -> str:
    with pytest.raises(UsageError) as caught:
        resize_between(original, changed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", MODELS)
def test_an_edit_turns_a_wide_model_into_a_narrow_one(family: str) -> None:
    make, inputs = MODELS[family]
    wide, narrow = make(8).eval(), make(4).eval()
    edit = json.loads(json.dumps(resize_between(wide, narrow)))
    made = apply_edit(wide, edit).eval()
    assert parameter_count(made) == parameter_count(narrow) < parameter_count(wide)
    made.load_state_dict(narrow.state_dict())
    assert torch.equal(made(inputs), narrow(inputs))
    assert str(made) == str(narrow)


def test_the_module_that_is_edited_stays_as_it_is() -> None:
    wide = build(WIDE, "student")
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    apply_edit(wide, narrow()[1])
    assert before.keys() == wide.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())
    assert wide.classifier.in_features == 8


def test_what_becomes_smaller_keeps_its_first_entries() -> None:
    wide = build(WIDE, "student")
    made = apply_edit(wide, narrow()[1])
    assert torch.equal(made.classifier.weight, wide.classifier.weight[:, :4])
    assert torch.equal(made.stem[1].running_var, wide.stem[1].running_var[:4])
    assert isinstance(made.classifier.weight, nn.Parameter)
    assert not isinstance(made.stem[1].running_var, nn.Parameter)


def test_a_frozen_parameter_stays_frozen() -> None:
    wide = build(WIDE, "student")
    wide.stem[0].weight.requires_grad_(False)
    made = apply_edit(wide, narrow()[1])
    assert not made.stem[0].weight.requires_grad
    assert made.classifier.weight.requires_grad


def test_a_tensor_of_two_names_stays_one_and_a_row_of_sizes_a_row() -> None:
    made = apply_edit(Odd(6), resize_between(Odd(6), Odd(2)))
    assert made.inner.weight is made.outer.weight
    assert made.inner.weight.shape == (2, 4)
    assert made.sizes == (2, 4)
    assert made.shift.tolist() == [0, 1]
    assert made(torch.zeros(1, 4)).tolist() == [[0, 1]]


def test_models_alike_have_an_empty_edit() -> None:
    edit = resize_between(Odd(3), Odd(3).train())
    assert edit == {"kind": "resize", "shapes": {}, "attributes": {}}


def untied() -> nn.Module:
    module = Odd(3)
    module.outer.weight = nn.Parameter(module.outer.weight.detach().clone())
    return module


def with_bias() -> nn.Module:
    module = Odd(3)
    module.inner.bias = nn.Parameter(torch.zeros(3))
    return module


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (Half(3), "the module itself"),
        (nn.Sequential(Odd(3)), "module tree"),
        (Odd(3, "sum"), "Odd.mode changed from 'mean' to 'sum'"),
        (Odd(3).half(), "'inner.weight' changed more than its size: float32 (3, 4) became float16 (3, 4)"),
        (untied(), "'outer.weight' and 'inner.weight' are one tensor in one of the two"),
        (with_bias(), "'inner.bias'"),
    ],
    ids=["type", "tree", "word", "dtype", "tie", "bias"],
)
def test_what_is_more_than_sizes_is_refused_by_name(changed: nn.Module, said: str) -> None:
    assert said in difference_refusal(Odd(3), changed)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"kind": "rezise"}, "'rezise'"),
        ({}, "None"),
        ({"kind": "resize", "shapes": {}}, "attributes"),
        ({"kind": "resize", "shapes": [1], "attributes": {}}, "shapes"),
        ({"kind": "resize", "shapes": {"stem.0.wieght": [4, 1, 3, 3]}, "attributes": {}}, "'stem.0.weight'"),
        ({"kind": "resize", "shapes": {"classifier.bias": [4]}, "attributes": {}}, "(3,) to (4,)"),
        ({"kind": "resize", "shapes": {"classifier.bias": [0]}, "attributes": {}}, "(3,) to (0,)"),
        ({"kind": "resize", "shapes": {"classifier.bias": [3, 1]}, "attributes": {}}, "(3,) to (3, 1)"),
        ({"kind": "resize", "shapes": {}, "attributes": {"clasifier": {"in_features": 4}}}, "'classifier'"),
        ({"kind": "resize", "shapes": {}, "attributes": {"classifier": {"in_feature": 4}}}, "classifier.in_feature"),
        ({"kind": "resize", "shapes": {}, "attributes": {"stem.0": {"padding_mode": 4}}}, "stem.0.padding_mode"),
        ({"kind": "resize", "shapes": {}, "attributes": {"stem.0": {"groups": "four"}}}, "stem.0.groups"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: dict[str, Any], said: str) -> None:
    assert said in edit_refusal(edit)


def test_an_edited_model_is_saved_and_comes_back(tmp_path: Path) -> None:
    smaller, edit = narrow()
    architecture = dataclasses.replace(WIDE, edits=(edit,))
    save_module(smaller, architecture, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["architecture.json", "weights.safetensors"]
    restored, read = load_module(tmp_path, "student")
    inputs = torch.randn(5, 1, 8, 8)
    assert read == architecture
    assert torch.equal(restored(inputs), smaller(inputs))


def test_edits_are_done_one_after_the_other() -> None:
    smaller, first = narrow()
    smallest = ds_cnn((1, 8, 8), 3, width=2, blocks=2)
    second = resize_between(smaller, smallest)
    built = build(dataclasses.replace(WIDE, edits=(first, second)), "student")
    assert parameter_count(built) == parameter_count(smallest)
    with pytest.raises(UsageError):
        build(dataclasses.replace(WIDE, edits=(second, first)), "student")


def test_an_edit_that_leaves_a_model_that_does_not_run_is_refused_by_the_models_name() -> None:
    edit = narrow()[1]
    del edit["shapes"]["classifier.weight"]
    with pytest.raises(UsageError, match="student: ds_cnn") as caught:
        build(dataclasses.replace(WIDE, edits=(edit,)), "student")
    assert "\n" not in str(caught.value)


def test_without_edits_the_file_is_the_one_of_old_and_is_read(tmp_path: Path) -> None:
    save_module(build(WIDE, "student"), WIDE, tmp_path)
    document = json.loads((tmp_path / "architecture.json").read_text())
    assert document.keys() == {"model", "args", "input_shape", "classes", "vocabulary"}
    assert load_architecture(tmp_path) == WIDE
