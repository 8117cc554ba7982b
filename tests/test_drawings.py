"""The documentation's drawings are those that docs/draw.py makes now, show what they say, and can be read."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import draw
import pytest
from drawings import house, networks
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from test_imports import ALLOWED

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
PATH, NUMBER = re.compile(r' d="[^"]*"'), re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def pictures():
    return dict(draw.pictures())


def test_the_committed_drawings_are_current(pictures):
    committed = {
        file.relative_to(DOCS / "images").as_posix(): file.read_text(encoding="utf-8")
        for file in (DOCS / "images").rglob("*.svg")
        if file.parent.name != "scan_orders"  # tests/ops/test_scan_pictures.py
    }
    remedy = "draw them again: python docs/draw.py"
    assert pictures.keys() == committed.keys(), remedy
    for name, picture in pictures.items():
        assert PATH.sub("", picture) == PATH.sub("", committed[name]), remedy
        drawn, before = (NUMBER.findall("".join(PATH.findall(svg))) for svg in (picture, committed[name]))
        # curves are rounded to a tenth of a pixel, after float32 that another processor rounds otherwise
        assert [float(number) for number in drawn] == pytest.approx([float(number) for number in before], abs=0.11), (
            name
        )


def test_every_drawing_is_shown_on_a_page(pictures):
    shown = set()
    for page in DOCS.rglob("*.md"):
        shown |= set(re.findall(r"!\[[^\]]+\]\((?:\.\./)?images/(\S+\.svg)\)", page.read_text(encoding="utf-8")))
    assert {*pictures} == {name for name in shown if not name.startswith("scan_orders/")}


def test_a_drawing_styles_nothing_but_itself():
    """It becomes a part of its page, beside the site's own icons."""
    for file in (DOCS / "images").rglob("*.svg"):
        drawing = ElementTree.parse(file).getroot()
        style = re.sub(r"@keyframes \w+\{.*\}\}", "", drawing.find(f"{SVG}style").text)
        rules = re.findall(r"([^{}]+)\{[^{}@]*\}", re.sub(r"@media \([\w:-]+\)\{", "", style))
        assert len(rules) > 20
        assert all(rule.strip().startswith(f".{drawing.get('class')}") for rule in rules), file.name


def test_no_text_leaves_its_box_or_the_picture(pictures):
    for name, picture in pictures.items():
        drawing = ElementTree.fromstring(picture)
        boxes = [
            [float(box.get(key)) for key in ("x", "y", "width", "height")]
            for box in drawing.iter(f"{SVG}rect")
            if box.get("x")
        ]
        for text in drawing.iter(f"{SVG}text"):
            x, y = float(text.get("x")), float(text.get("y"))
            bold = text.get("class") == "bold"
            font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")  # wider than most
            width = TextPath((0, 0), text.text, size=12 if bold else 11, prop=font).get_extents().width
            left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor")]
            around = [(bx, bx + w) for bx, by, w, h in boxes if bx < x < bx + w and by < y < by + h]
            low, high = around[-1] if around else (0, float(drawing.get("width")))
            assert low <= left and left + width <= high, f"{name}: {text.text!r} does not fit"


@pytest.mark.parametrize("name", networks.NAMES)
def test_no_part_of_a_network_is_left_out_of_its_drawing(name):
    network, shapes = networks.trace(name)
    drawn = {module for part in networks.parts(name, network) for module in part.modules}
    weights = {id(p) for module in drawn for p in network.get_submodule(module).parameters()}
    left_out = [key for key, weight in network.named_parameters() if id(weight) not in weights]
    assert {key.split(".")[:2] == ["decoder", "seg_layers"] for key in left_out} == {True}  # the logits
    assert drawn <= {*shapes}


def test_the_house_has_the_rooms_that_may_be_imported():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for room, below in house.imports(page).items():
        assert below <= ALLOWED[room]
    texts = [text.text for text in ElementTree.fromstring(house.rooms().svg()).iter(f"{SVG}text")]
    assert {"cli", "trainers", "ops"} <= {*texts}
    assert texts.index("cli") < texts.index("trainers") < texts.index("architectures") < texts.index("losses")
