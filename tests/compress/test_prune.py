"""Channel pruning: what leaves, what must stay, and that what is left computes what it should."""

import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations

from edgekd.compress import quantize
from edgekd.compress.channels import check_forward
from edgekd.compress.program import load_program, save_program
from edgekd.compress.prune import prune
from edgekd.errors import UsageError
from edgekd.export.card import Card
from edgekd.export.formats import export_program
from edgekd.models.build import Architecture, build, example_input, load_architecture, parameter_count, save_module
from edgekd.models.cost import macs
from edgekd.models.layers import conv_bn_relu
from edgekd.models.structure import apply_edit, resize_between
from edgekd.runtimes import open_session
from tests.compress.students import lively, noise
from tests.export.small_text import ARCHITECTURES as TEXTS
from tests.export.small_text import WORDS, ids, text_student

LENGTH, VOCABULARY = 8, 60
IMAGES = {
    "ds_cnn": Architecture("ds_cnn", {"width": 16, "blocks": 2}, (2, 8, 8), 4),
    "resnet": Architecture("resnet", {"width": 8, "blocks": (1, 2)}, (2, 8, 8), 4),
}
ARCHITECTURES = {**IMAGES, **TEXTS}
LAYERS = (nn.Conv2d, nn.Linear)


def student(family: str) -> nn.Module:
    return lively(ARCHITECTURES[family]) if family in IMAGES else copy.deepcopy(text_student(family))


def inputs_of(family: str, count: int = 6) -> torch.Tensor:
    return noise(ARCHITECTURES[family].input_shape, count) if family in IMAGES else ids(count)


def answers(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs: torch.Tensor = model(inputs)
    return outputs


def widths(model: nn.Module) -> dict[str, int]:
    """The number of output channels of every layer."""
    return {name: layer.weight.shape[0] for name, layer in model.named_modules() if isinstance(layer, LAYERS)}


def refusal(model: nn.Module, example: torch.Tensor, keep: float = 0.5, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        prune(model, example, options.pop("cost", parameter_count), keep, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def small(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


IMAGE = torch.zeros(1, 2, 8, 8)


def plain() -> nn.Module:
    return small(
        conv_bn_relu(2, 16, 3), conv_bn_relu(16, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)
    )


@pytest.mark.parametrize("keep", [0.6, 0.3])
@pytest.mark.parametrize("cost", ["macs", "parameters"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_target_is_met_and_not_far_missed(family: str, cost: str, keep: float) -> None:
    model, example = student(family), example_input(ARCHITECTURES[family])
    cost_of: Callable[[nn.Module], float] = partial(macs, example=example) if cost == "macs" else parameter_count
    pruned = prune(model, example, cost_of, keep)
    assert 0.8 * keep <= cost_of(pruned) / cost_of(model) <= keep
    assert not pruned.training
    before, after = widths(model), widths(pruned)
    assert after.keys() == before.keys()
    assert after["classifier"] == before["classifier"]
    assert all(0 < after[name] <= before[name] for name in before)
    assert answers(pruned, inputs_of(family)).shape == (6, before["classifier"])


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_model_that_is_pruned_stays_as_it_is(family: str) -> None:
    model, example = student(family).train(), example_input(ARCHITECTURES[family])
    before = copy.deepcopy(model.state_dict())
    prune(model, example, partial(macs, example=example), 0.5, recover=lambda pruned: pruned.train())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def silence(model: nn.Module, channels: list[int]) -> None:
    """Let these channels of every layer of 16 be zero, whatever comes in, and let nobody read them."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d) and len(layer.weight) == 16:
                layer.weight[channels] = 0
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias[channels] = 0
            if isinstance(layer, LAYERS) and layer.weight.shape[1] == 16:
                layer.weight[:, channels] = 0


@pytest.mark.parametrize("family", IMAGES)
def test_channels_that_are_zero_leave_and_the_answers_stay(family: str) -> None:
    """In the residual network, one stream of channels goes through all layers."""
    arguments = {"ds_cnn": {"blocks": 2}, "resnet": {"blocks": (2,)}}[family]
    model, half = (
        lively(Architecture(family, {"width": width, **arguments}, (2, 8, 8), 4)).eval() for width in (16, 8)
    )
    dead = [0, 3, 5, 6, 9, 11, 12, 14]
    silence(model, dead)
    pruned = prune(model, IMAGE, partial(macs, example=IMAGE), macs(half, IMAGE) / macs(model, IMAGE))
    assert widths(pruned) == widths(half)
    assert macs(pruned, IMAGE) == macs(half, IMAGE)
    alive = [channel for channel in range(16) if channel not in dead]
    assert torch.equal(pruned.stem[0].weight, model.stem[0].weight[alive])
    inputs = noise((2, 8, 8), 16)
    torch.testing.assert_close(answers(pruned, inputs), answers(model, inputs), rtol=1e-6, atol=1e-6)


def test_a_head_and_inner_channels_that_are_zero_leave_and_the_answers_stay() -> None:
    architecture = dataclasses.replace(TEXTS["text_encoder"], args={"width": 16, "layers": 2, "heads": 4, "hidden": 24})
    model, example = lively_text(architecture), example_input(architecture)
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            rows = slice(4 * number, 4 * number + 4)
            for layer in (block.attention.query, block.attention.key, block.attention.value):
                layer.weight[rows] = 0
                layer.bias[rows] = 0
            block.attention.output.weight[:, rows] = 0
            block.expand.weight[:12] = 0
            block.expand.bias[:12] = 0
            block.reduce.weight[:, :12] = 0
    dead = 3 * (4 * 16 + 4) + 16 * 4 + (12 * 16 + 12) + 16 * 12
    keep = 1 - 2 * dead / parameter_count(model)
    pruned = prune(model, example, parameter_count, keep, protect=["*.output", "tokens"])
    assert [block.attention.heads for block in pruned.blocks] == [3, 3]
    assert [block.attention.query.out_features for block in pruned.blocks] == [12, 12]
    assert [block.expand.out_features for block in pruned.blocks] == [12, 12]
    torch.testing.assert_close(answers(pruned, ids(20)), answers(model, ids(20)), rtol=1e-6, atol=1e-6)


def lively_text(architecture: Architecture) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(architecture, "student")


def test_the_order_of_a_layer_normalisation_is_kept() -> None:
    """A width at which a set of the indices left is not in their order."""
    model = small(nn.Linear(4, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(128) / 64)
    pruned = prune(model, torch.zeros(1, 4), parameter_count, 0.2)
    left = pruned[1].weight.tolist()
    assert left == sorted(left)
    assert pruned[1].normalized_shape == (len(left),)


def test_each_step_has_an_equal_ratio_and_is_recovered() -> None:
    seen: list[float] = []

    def recover(model: nn.Module) -> None:
        seen.append(macs(model, IMAGE))
        for parameter in model.parameters():
            parameter.data.add_(0.01)
        model.train()

    model = lively(Architecture("ds_cnn", {"width": 32, "blocks": 2}, (2, 8, 8), 4))
    pruned = prune(model, IMAGE, partial(macs, example=IMAGE), 0.3, rounds=3, recover=recover)
    whole = macs(model, IMAGE)
    assert len(seen) == 3
    for step, spent in enumerate(seen, 1):
        assert 0.85 * 0.3 ** (step / 3) <= spent / whole <= 0.3 ** (step / 3)
    assert macs(pruned, IMAGE) == seen[-1]
    assert not pruned.training


def timed(model: nn.Module) -> float:
    """A device that spends 30 % on calling layers, and more on early ones: not quite what multiply-accumulates say."""
    first, second = (layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return 0.3 + 0.2 * first / 64 + 0.5 * (first * second / 96 / 64) ** 1.3


def two_layers() -> nn.Module:
    layers = (conv_bn_relu(2, 64, 3), conv_bn_relu(64, 96, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4))
    return small(*layers)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("keep", [0.8, 0.6])
def test_a_guide_spares_calls_of_the_cost(keep: float, rounds: int) -> None:
    calls: list[float] = []

    def cost(model: nn.Module) -> float:
        calls.append(timed(model))
        return calls[-1]

    pruned = prune(two_layers(), IMAGE, cost, keep, guide=partial(macs, example=IMAGE), rounds=rounds)
    assert 0.7 * keep <= timed(pruned) <= keep
    assert timed(pruned) in calls
    assert len(calls) <= 2 + 6 * rounds
    assert all(width % 16 == 0 for name, width in widths(pruned).items() if name != "4")


def test_a_guess_is_not_measured() -> None:
    calls: list[float] = []

    def cost(model: nn.Module) -> float:
        calls.append(timed(model))
        return calls[-1]

    pruned = prune(two_layers(), IMAGE, cost, 0.6, guide=partial(macs, example=IMAGE), measurements=0)
    assert len(calls) == 2
    assert max(calls) == calls[0] == timed(two_layers())
    assert calls[1] < timed(pruned) < calls[0]


def test_a_cost_with_a_guide_that_cannot_be_reached() -> None:
    said = refusal(two_layers(), IMAGE, 0.3, cost=timed, guide=partial(macs, example=IMAGE))
    assert f"keep: 0.3 of the cost of Sequential cannot be reached; the least is {timed_least():.3g}, with" in said


def timed_least() -> float:
    return 0.3 + 0.2 * 16 / 64 + 0.5 * (16 * 16 / 96 / 64) ** 1.3


def test_of_few_channels_none_leaves_by_a_guide() -> None:
    """What kernels take at once is not taken apart."""
    said = refusal(plain(), IMAGE, 0.9, guide=partial(macs, example=IMAGE))
    assert said.endswith("cannot be reached; the least is 1, with an eighth of the channels that may be pruned, or 16")


def test_any_number_is_a_cost() -> None:
    """As a measured latency is: here that of a device on which channels of the stem alone take time."""
    calls: list[int] = []

    def latency(model: nn.Module) -> float:
        calls.append(1)
        return 0.7 + 0.1 * model[0][0].out_channels

    model = plain()
    pruned = prune(model, IMAGE, latency, 0.6)
    assert latency(pruned) <= 0.6 * latency(model)
    assert pruned[0][0].out_channels == 4
    assert len(calls) < 40


@pytest.mark.parametrize(
    ("names", "stay"),
    [
        (["stem"], {"stem.0", "blocks.0.0.0"}),
        (["blocks.0.1.0"], {"blocks.0.1.0", "blocks.1.0.0"}),
        (["blocks.?.1"], {"blocks.0.1.0", "blocks.1.0.0", "blocks.1.1.0"}),
        (["blocks.1"], {"blocks.0.1.0", "blocks.1.0.0", "blocks.1.1.0"}),
    ],
    ids=["container", "layer", "pattern", "all in it"],
)
def test_the_outputs_of_protected_modules_stay_and_others_go(names: list[str], stay: set[str]) -> None:
    """A depthwise layer has the channels of the layer before it."""
    pruned = prune(lively(IMAGES["ds_cnn"]), IMAGE, parameter_count, 0.6, protect=names)
    assert {name for name, width in widths(pruned).items() if width == 16} == stay


class Turned(nn.Module):
    """Channels come back in another order, which a graph of operations does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv_bn_relu(2, 16, 3), conv_bn_relu(16, 16, 3), nn.Linear(16, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.last(self.second(self.first(inputs).flip(1)).mean((2, 3)))
        return outputs


def test_channels_that_cannot_be_followed_stay() -> None:
    torch.manual_seed(0)
    pruned = prune(Turned(), IMAGE, parameter_count, 0.6)
    assert widths(pruned) == {"first.0": 16, "second.0": 8, "last": 4}


class OnItself(nn.Module):
    """The input is added to a layer's outputs, so these must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 12, 3), nn.Linear(12, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.last(self.second(inputs + self.first(inputs)).mean((2, 3)))
        return outputs


class Answers(nn.Module):
    """No linear layer at the end: the last convolution's channels are the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 12, 3), nn.Conv2d(12, 4, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(torch.relu(self.last(self.first(inputs))).mean((2, 3)), 1)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.middle = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.second.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.back(torch.relu(self.middle(torch.relu(self.first(inputs)))))
        outputs: torch.Tensor = self.last(torch.relu(self.second(hidden)))
        return outputs


@pytest.mark.parametrize(
    ("model", "example", "stay"),
    [
        (OnItself, IMAGE, {"first": 2, "last": 4}),
        (Answers, IMAGE, {"last": 4}),
        (Tied, torch.zeros(1, 8), {"first": 8, "second": 8, "last": 4}),
    ],
)
def test_what_is_bound_to_inputs_outputs_or_other_layers_stays(
    model: type[nn.Module], example: torch.Tensor, stay: dict[str, int]
) -> None:
    torch.manual_seed(0)
    original = model()
    pruned = prune(original, example, parameter_count, 0.75)
    assert {name: width for name, width in widths(pruned).items() if name in stay} == stay
    assert parameter_count(pruned) < parameter_count(original)


def flat(*layers: nn.Module, features: int) -> nn.Module:
    return small(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(features, 4))


KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "groups": (flat(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), features=512), (2, 8, 8)),
    "group norm": (flat(nn.Conv2d(2, 16, 3), nn.GroupNorm(4, 16), features=576), (2, 8, 8)),
    "transposed": (flat(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 12, 3), features=768), (2, 8, 8)),
    "1-d": (flat(nn.Conv1d(2, 16, 3), nn.BatchNorm1d(16), nn.PReLU(16), nn.Conv1d(16, 8, 3), features=32), (2, 8)),
    "linear": (flat(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Linear(16, 12), features=12), (8,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_many_kinds_are_cut(kind: str) -> None:
    model, shape = KINDS[kind]
    pruned = prune(model, torch.zeros(1, *shape), parameter_count, 0.6)
    assert parameter_count(pruned) <= 0.6 * parameter_count(model)
    rebuilt = apply_edit(model, json.loads(json.dumps(resize_between(model, pruned))))
    rebuilt.load_state_dict(pruned.state_dict())
    inputs = noise(shape, 5)
    assert torch.equal(answers(rebuilt, inputs), answers(pruned, inputs))


class Logits(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(inputs).logits
        return logits


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        num_labels=3,
    )
    return Logits(transformers.BertForSequenceClassification(config)).eval()


def test_a_bert_loses_heads_width_and_inner_channels(bert: nn.Module) -> None:
    example = torch.zeros(1, LENGTH, dtype=torch.int32)
    pruned = prune(bert, example, partial(macs, example=example), 0.4)
    assert 0.8 * 0.4 <= macs(pruned, example) / macs(bert, example) <= 0.4
    for layer in pruned.model.bert.encoder.layer:
        attention = layer.attention.self
        assert attention.num_attention_heads * attention.attention_head_size == attention.all_head_size
        assert attention.query.weight.shape == (attention.all_head_size, layer.attention.output.dense.out_features)
        assert attention.all_head_size < 32
        assert layer.intermediate.dense.out_features < 64
    edit = json.loads(json.dumps(resize_between(bert, pruned)))
    rebuilt = apply_edit(bert, edit)
    rebuilt.load_state_dict(pruned.state_dict())
    assert torch.equal(answers(rebuilt, ids(5)), answers(pruned, ids(5)))


def test_a_dead_head_of_a_bert_leaves_and_the_answers_stay(bert: nn.Module) -> None:
    model, example = copy.deepcopy(bert), torch.zeros(1, LENGTH, dtype=torch.int32)
    with torch.no_grad():
        for layer in model.model.bert.encoder.layer:
            for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
                part.weight[8:16] = 0
                part.bias[8:16] = 0
            layer.attention.output.dense.weight[:, 8:16] = 0
    stays = ["*.embeddings", "*.dense"]
    pruned = prune(model, example, parameter_count, 0.92, protect=stays)
    numbers = [vars(layer.attention.self) for layer in pruned.model.bert.encoder.layer]
    names = ("num_attention_heads", "attention_head_size", "all_head_size")
    assert [tuple(each[name] for name in names) for each in numbers] == [(3, 8, 24)] * 2
    torch.testing.assert_close(answers(pruned, ids(9)), answers(model, ids(9)), rtol=1e-6, atol=1e-6)


FRESH = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from edgekd.models.build import load_module
place = Path(sys.argv[1])
torch.set_num_threads(1)
for family in sys.argv[2:]:
    model, _ = load_module(place / family, "student")
    with torch.no_grad():
        outputs = model(load_file(place / f"{family}.inputs")["inputs"])
    save_file({"outputs": outputs}, place / f"{family}.outputs")
"""


def test_pruned_models_answer_in_a_fresh_process_bit_for_bit(tmp_path: Path) -> None:
    expected = {}
    for family, architecture in ARCHITECTURES.items():
        model, example = student(family), example_input(architecture)
        pruned = prune(model, example, partial(macs, example=example), 0.5)
        (tmp_path / family).mkdir()
        edited = dataclasses.replace(architecture, edits=(resize_between(model, pruned),))
        save_module(pruned, edited, tmp_path / family)
        save_file({"inputs": inputs_of(family)}, tmp_path / f"{family}.inputs")
        expected[family] = answers(pruned, inputs_of(family))
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path), *ARCHITECTURES], check=True)
    for family, outputs in expected.items():
        assert torch.equal(load_file(tmp_path / f"{family}.outputs")["outputs"], outputs), family


@pytest.mark.parametrize("family", ["ds_cnn", "text_encoder"])
def test_a_pruned_model_is_quantized_exported_and_comes_back(family: str, tmp_path: Path) -> None:
    architecture, example, model = ARCHITECTURES[family], example_input(ARCHITECTURES[family]), student(family)
    pruned = prune(model, example, partial(macs, example=example), 0.5)
    program = quantize(pruned, inputs_of(family, 64))
    labels = tuple("abcd"[: architecture.classes])
    card = Card("student", labels, "logits", {"input": "features"} if family in IMAGES else WORDS)
    file = export_program(program, "onnx", "int8", tmp_path, card)
    inputs = inputs_of(family, 20)
    found = open_session(file).run(inputs.numpy())
    expected = answers(program.model, inputs).numpy()
    assert np.abs(found - expected).mean() <= program.output_scale
    edited, folder = dataclasses.replace(architecture, edits=(resize_between(model, pruned),)), tmp_path / "program"
    folder.mkdir()
    save_module(pruned, edited, tmp_path)
    save_program(program, tmp_path / "architecture.json", folder)
    restored = load_program(folder, load_architecture(folder))
    assert restored.table == program.table
    assert torch.equal(answers(restored.model, inputs), answers(program.model, inputs))


class Reshapes(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first, self.last, self.width = nn.Conv2d(2, width, 3), nn.Linear(width, 4), width

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = self.first(inputs).mean((2, 3))
        outputs: torch.Tensor = self.last(found.reshape(len(inputs), self.width))
        return outputs


def test_a_forward_that_hard_codes_a_size_is_refused_by_its_line() -> None:
    message = refusal(Reshapes(), IMAGE)
    assert "Reshapes hard-codes a size" in message
    assert "test_prune.py, line" in message
    assert "found.reshape(len(inputs), self.width)" in message


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Unflatten hard-codes a size.* shape \(2, 2, 6\), not \(2, 3, 4\)") as caught:
        check_forward(nn.Unflatten(1, (2, 6)), nn.Unflatten(1, (3, 4)), torch.zeros(1, 12))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(keep: float) -> None:
    assert f"above 0 and below 1, not {keep}" in refusal(plain(), IMAGE, keep)


def test_no_rounds_are_refused() -> None:
    assert "at least 1, not 0" in refusal(plain(), IMAGE, rounds=0)


def test_a_target_that_cannot_be_reached_is_refused_with_the_least_that_can() -> None:
    message = refusal(plain(), IMAGE, 0.001)
    least = float(message.split("the least is ")[1].split(",")[0])
    pruned = prune(plain(), IMAGE, parameter_count, least + 0.001)
    assert parameter_count(pruned) / parameter_count(plain()) == pytest.approx(least, abs=1e-3)
    assert all(width > 0 for width in widths(pruned).values())


@pytest.mark.parametrize(("name", "said"), [("stm", "did you mean 'stem'?"), ("head.*", "known: "), ("", "known: ")])
def test_a_protected_name_that_matches_nothing_is_refused(name: str, said: str) -> None:
    message = refusal(lively(IMAGES["ds_cnn"]), IMAGE, protect=["stem", name])
    assert f"'{name}'" in message
    assert said in message


def test_nothing_left_to_prune_is_refused() -> None:
    assert "no channels that could be pruned" in refusal(plain(), IMAGE, protect=["*"])
    assert "no channels that could be pruned" in refusal(nn.Linear(4, 3), torch.zeros(1, 4))


def test_a_quantized_model_is_refused_with_the_reason() -> None:
    program = quantize(lively(IMAGES["ds_cnn"]), noise((2, 8, 8), 16))
    assert "prune the float model, then quantize" in refusal(program.model, IMAGE)
    assert "prune the float model, then quantize" in refusal(program.frozen(stored=False), IMAGE)


def test_a_parametrized_weight_is_refused_by_its_layer() -> None:
    model = plain()
    parametrizations.weight_norm(model[4])
    assert "'4'" in refusal(model, IMAGE)


def test_weights_that_are_not_numbers_are_refused_by_name() -> None:
    model = plain()
    model[0][0].weight.data[0, 0, 0, 0] = float("nan")
    assert "'0.0.weight' holds NaN" in refusal(model, IMAGE)


class TakesSides(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise ValueError("not today")


def test_a_model_that_does_not_run_is_refused_in_one_line() -> None:
    assert "not today" in refusal(TakesSides(), IMAGE)


def test_a_model_of_several_outputs_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return inputs, inputs

    assert "Pair cannot be followed: its outputs are of type tuple" in refusal(Pair(), IMAGE)


def test_a_cost_that_does_not_fall_twice_the_same_way_is_refused() -> None:
    """As a latency measured on a device that has become slower meanwhile."""
    costs = iter([100.0, 10.0, *[90.0] * 60])
    message = refusal(plain(), IMAGE, 0.5, cost=lambda model: next(costs))
    assert "a cost of 50 cannot be reached; the least that was found is 90" in message


def test_a_cost_of_nothing_is_refused() -> None:
    assert "must be a number above 0" in refusal(plain(), IMAGE, cost=lambda model: 0.0)
