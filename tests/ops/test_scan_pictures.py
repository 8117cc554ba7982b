"""The documentation's pictures of scan orders are those that the package draws now."""

from __future__ import annotations

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
    remedy = "python -m nnunetv2_mamba.ops.scan_order.picture docs/images/scan_orders"
    assert drawn == committed, f"draw them again: {remedy}"


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
    widths = [path.get("stroke-width") for path in drawing.iter(f"{SVG}path")]
    assert len(widths) == 11 and widths.count("0.7") == 2 and widths[3] == widths[7] == "0.7"
    for path in drawing.iter(f"{SVG}path"):
        ends = [tuple(map(int, end.split())) for end in path.get("d").removeprefix("M").split("L")]
        length = sum(abs(a - b) for a, b in zip(*ends, strict=True))
        assert (length == 22) == (path.get("stroke-width") == "3")
