"""Draw all pictures of the documentation that are made from code: ``python docs/draw.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drawings import blocks, house, networks, report, small_networks

from nnunetv2_mamba.ops.scan_order import picture as scan_orders

IMAGES = Path(__file__).parent / "images"


def pictures() -> Iterator[tuple[str, str]]:
    """Yield the place of each picture below ``images``, and the picture; those of scan orders the package draws."""
    for name in networks.NAMES:
        yield f"networks/{name}.svg", networks.drawing(name).svg()
    for room in (blocks, house, report, small_networks):
        for name, drawing in room.PICTURES.items():
            yield f"{room.__name__.removeprefix('drawings.')}/{name}.svg", drawing().svg()


def main(folder: Path) -> None:
    """Write all pictures into a folder."""
    scan_orders.main(str(folder / "scan_orders"))
    for name, picture in pictures():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(picture, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(IMAGES)
