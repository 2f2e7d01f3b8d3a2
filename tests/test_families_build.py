"""Whole builds of digits, one for each family of image students: every gate holds for all of them."""

import pytest

from edgekd.resources import BUILT_IN_RECIPES, TARGETS
from tests.conftest import Run, edgekd, overrides

pytestmark = pytest.mark.slow

NARROW = "{ width = 0.125, stem_stride = 1 }"
STUDENTS = {
    "ds_cnn": "{ width = 16, blocks = 2 }",
    "squeezenet": "{ width = 0.25, stem_stride = 1 }",
    "shufflenet_v2": NARROW,
    "xception": "{ width = 0.125, middle = 1, stem_stride = 1 }",
    "mobilenet_v1": NARROW,
    "mobilenet_v3": NARROW,
    "mobilenet_v2": NARROW,
    "efficientnet_lite": NARROW,
    "mnasnet": NARROW,
}
RUNG = """
[ladder.{name}.student]
model = "{name}"
args = {args}
"""
SLOWER = """
[ladder.squeezenet.distill.train]
epochs = 30
learning_rate = 2e-3
"""
"""There is no batch norm in it."""
SHORT = (
    "student.model=resnet",
    "student.args={ width = 8 }",
    "task.augment.views=1",
    "teacher.train.epochs=6",
    "distill.train.epochs=10",
    "distill.train.batch_size=128",
    "distill.train.learning_rate=2e-2",
    "quantize.calibration_samples=64",
    "quantize.train.epochs=1",
    "quantize.train.batch_size=128",
    "budgets.below_teacher=30",
    "budgets.below_student=4",
)
"""None is trained to its end, and such a student moves by some points when it goes on learning with quantizers."""
ISLANDS = {"mobilenet_v3": {"HARD_SWISH", "ADD"}, "xception": {"ADD"}}
"""Float between integers: hard-swish and the sum in hard-sigmoid, which have no int8 kernel; a sum that a ReLU and a
shortcut read, which gets a quantizer behind each reader and none of its own.
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One ladder: the data, the teacher and its outputs are made once."""
    folder = tmp_path_factory.mktemp("families")
    rungs = [RUNG.format(name=name, args=args) for name, args in STUDENTS.items()]
    (folder / "edgekd.toml").write_text("".join([(BUILT_IN_RECIPES / "digits.toml").read_text(), *rungs, SLOWER]))
    target = (TARGETS / "tflite-arm.toml").read_text().replace('["local"]', "[]")
    (folder / "tflite.toml").write_text(target)
    return edgekd(folder, "build", "--target", "tflite.toml", "--json", *overrides(SHORT))


@pytest.mark.parametrize("family", ["base", *STUDENTS])
def test_a_family_is_built_with_every_gate_green(family: str, run: Run) -> None:
    assert family not in run.document["ladder"]["failed"]
    (artifact,) = run.document["rungs"][family]["artifacts"]
    assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"] > 10
    assert artifact["parity"]["agreement"] >= 0.99
    assert artifact["parity"]["max_lsb"] <= 8
    assert (artifact["ops"]["undelegated"], artifact["ops"]["delegates"]) == ([], 1)
    assert artifact["ops"]["stray_transposes"] == 0
    islands = {island.partition(":")[2].partition(" ")[0] for island in artifact["ops"]["float_islands"]}
    assert islands == ISLANDS.get(family, set())
    assert artifact["accuracy"]["exported"] > 0.65


def test_the_build_of_all_ends_well(run: Run) -> None:
    assert run.code == 0, run.stderr
