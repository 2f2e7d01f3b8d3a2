"""The report's pictures hold every model that they are given."""

import re
from xml.etree import ElementTree

import pytest

from edgekd.report.charts import Bar, bars

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("teacher", "student alone", "student, float", "exported int8")


@pytest.mark.parametrize("names", [NAMES, NAMES[:1] + NAMES[2:], NAMES[2:]])
def test_every_bar_is_drawn_inside_the_picture(names: tuple[str, ...]) -> None:
    svg = bars("Accuracy", [Bar(name, 0.5 + place / 10, f"{place} of 9") for place, name in enumerate(names)])
    picture = ElementTree.fromstring(svg)
    height = float(picture.attrib["viewBox"].split()[3])
    places = {"".join(text.itertext()): text.attrib for text in picture.iter(f"{SVG}text")}
    for place, name in enumerate(names):
        for text in (name, f"{place} of 9"):
            assert 0 < float(re.findall(r"[-.\d]+", places[text]["transform"])[-1]) < height


def test_the_exported_file_has_a_colour_of_its_own() -> None:
    svg = bars("Accuracy", [Bar(name, 0.5, name) for name in NAMES])
    assert svg.count("#1f9d6b") == 1
