"""Every family as a full-integer TFLite file: what was learned is in it, and the fast path takes all of it."""

from pathlib import Path
from typing import Any

import pytest

from edgekd.compress import quantize
from edgekd.export import export
from edgekd.export.card import Card
from edgekd.readers import read_graph
from edgekd.runtimes import open_session
from edgekd.target import load_target
from edgekd.verify.coverage import asked_transposes, check_coverage, coverage
from edgekd.verify.readback import read_back
from tests.compress.students import noise
from tests.models.test_students import alive, model

SHAPE, CLASSES = (1, 8, 8), 4
TARGET = load_target("tflite-arm")
CARD = Card("student", ("north", "east", "south", "west"), "logits", {"input": "features"})
SMALL: dict[str, dict[str, Any]] = {
    "squeezenet": {"width": 0.125, "stem_stride": 1},
    "mobilenet_v1": {"width": 0.125, "stem_stride": 1},
    "mobilenet_v2": {"width": 0.125, "stem_stride": 1},
    "mobilenet_v3": {"width": 0.125, "stem_stride": 1},
    "mnasnet": {"width": 0.125, "stem_stride": 1},
    "shufflenet_v2": {"width": 0.125, "stem_stride": 1},
    "xception": {"width": 0.125, "middle": 1, "stem_stride": 1},
    "efficientnet_lite": {"width": 0.125, "stem_stride": 1},
}
ISLANDS = {"mobilenet_v3": ("HARD_SWISH", "ADD"), "xception": ("ADD",)}
"""Float between integers: hard-swish and the sum in hard-sigmoid, which have no int8 kernel; a sum that a ReLU and a
shortcut read, which gets a quantizer behind each reader and none of its own.
"""


@pytest.mark.parametrize("family", SMALL)
def test_a_family_is_exported_as_integers_with_every_learned_scale(family: str, tmp_path: Path) -> None:
    student = alive(model(family, SHAPE, CLASSES, **SMALL[family]), SHAPE)
    program = quantize(student, noise(SHAPE, 32))
    file = export(program, TARGET, tmp_path, CARD)
    graph = read_graph(file)
    readback = read_back(program.table, graph)
    assert readback.problems == ()
    assert readback.exact == readback.learned
    session = open_session(file, runtime=TARGET.runtime)
    found = coverage(graph, session.placement(), asked_transposes(student, program.example))
    check_coverage(TARGET.coverage, found)
    assert found.placement.delegates == 1
    islands = {island.partition(":")[2].partition(" ")[0] for island in found.float_islands}
    assert islands <= set(ISLANDS.get(family, ()))
