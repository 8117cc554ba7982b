"""The documentation's pictures of scan orders are those that the package draws now."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nnunetv2_mamba.architectures.blocks.scan_paths import SCANS
from nnunetv2_mamba.ops.scan_order import picture

DOCS = Path(__file__).parents[2] / "docs"
COMMITTED = DOCS / "images" / "scan_orders"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_pictures_are_current(tmp_path):
    picture.main(str(tmp_path))
    drawn, committed = ({file.name: file.read_bytes() for file in path.iterdir()} for path in (tmp_path, COMMITTED))
    assert drawn == committed, "draw them again: python docs/draw.py"


def test_every_scan_is_shown_on_its_page():
    page = (DOCS / "scan_orders.md").read_text(encoding="utf-8")
    assert {*SCANS} <= {*picture.PICTURES}
    for name in picture.PICTURES:
        assert f"](images/scan_orders/{name}.svg)" in page


@pytest.mark.parametrize(
    ("name", "grid", "panels"),
    [
        ("raster", (3, 4), ["3 × 4"]),
        ("bidirectional", (3, 4), ["3 × 4, there and back"]),
        ("tri_oriented", (2, 3, 4), ["2 × 3 × 4, there and back", "2 × 3 × 4"]),
        ("six_axes", (2, 3, 4), ["2 × 3 × 4, there and back"] * 3),
        ("ss3d", (2, 3, 4), ["2 × 3 × 4, there and back"] * 4),
        ("hilbert+reverse", (2, 3, 4), ["2 × 3 × 4, there and back"]),
    ],
)
def test_a_path_and_its_reversal_share_a_panel(name, grid, panels):
    drawing = ElementTree.fromstring(picture.picture(name, [grid]))
    assert [text.text for text in drawing.iter(f"{SVG}text")] == panels


def test_jumps_are_thin():
    drawing = ElementTree.fromstring(picture.picture("raster", [(3, 4)]))
    steps = [
        (path.get("class").split()[1], path.get("d")) for path in drawing.iter(f"{SVG}path") if "L" in path.get("d")
    ]
    kinds = [kind for kind, _ in steps]
    assert len(kinds) == 11 and kinds.count("jump") == 2 and kinds[3] == kinds[7] == "jump"
    for kind, step in steps:
        ends = [tuple(map(int, end.split())) for end in step.removeprefix("M").split("L")]
        length = sum(abs(a - b) for a, b in zip(*ends, strict=True))
        assert (length == 22) == (kind == "near")


def test_a_ring_walks_along_every_path_unless_less_motion_is_asked_for():
    drawing = ElementTree.fromstring(picture.picture("bidirectional", [(2, 3)]))
    (ring,) = drawing.iter(f"{SVG}circle")
    points = re.search(r"path\('M(.*)'\)", ring.get("style"))[1].split("L")
    assert len(points) == 6 and "both" in ring.get("class")  # and back
    style = drawing.find(f"{SVG}style").text
    moving = style.index("@media (prefers-reduced-motion:no-preference)")
    assert "animation" not in style[:moving] and ".scan .walker{display:none" in style[:moving]


def test_no_picture_is_wider_than_a_phone():
    for name, grids in picture.PICTURES.values():
        assert int(ElementTree.fromstring(picture.picture(name, grids)).get("width")) <= 376
