"""The rooms of the package, and what runs through them from the user's command to the report."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from .svg import WIDTH, Drawing

_TABLE = Path(__file__).parents[1] / "architecture.md"
_SMALL = {
    "_register",
    "regions",
    "image_files",
    "untrusted",
    "discovery",
    "temperature_file",
}
_KINDS = {"trainers": "mamba", "architectures": "mamba", "ops": "mamba", "losses": "loss"}


def rooms() -> Drawing:
    """The rooms that the imports' table of ``architecture.md`` names, each above all that it imports."""
    below = imports(_TABLE.read_text(encoding="utf-8"))
    floors: list[list[str]] = []
    for room in sorted(below, key=lambda room: (_height(room, below), room)):
        height = _height(room, below)
        floors += [[] for _ in range(height + 1 - len(floors))]
        floors[height].append(room)
    picture = Drawing("The rooms of the package, floor by floor; each imports from floors below it only")
    picture.text(10, 20, "A room imports from floors below its own.", style="bold")
    picture.text(10, 36, "Under a name: what it imports, less what comes with that.")
    y = 46.0
    for floor in reversed(floors):
        columns = min(len(floor), 3)
        width = (WIDTH - 12 - 8 * (columns - 1)) / columns
        texts = {room: textwrap.wrap(", ".join(_needed(room, below)), round(width / 7)) for room in floor}
        for start in range(0, len(floor), 3):
            row = floor[start : start + 3]
            lower = [
                picture.box(6 + column * (width + 8), y, width, (room, *texts[room]), _KINDS.get(room, "plain"))
                for column, room in enumerate(row)
            ]
            y = max(lower) + 6
        y += 10
    return picture


def imports(page: str) -> dict[str, set[str]]:
    """Read "ROOM → ROOMS" in a page: which rooms each room imports; what all may use and ``_SMALL`` are left out."""
    everybody = re.search(r"^Everybody may use (.*?),? which ", page, re.MULTILINE)[1]
    left_out = _SMALL | set(re.findall(r"`(\w+)`", everybody))
    below: dict[str, set[str]] = {}
    for line in page.splitlines():
        if match := re.fullmatch(r"([\w, ]+?) +→ (.+)", line):
            imported = set() if match[2] == "nothing of ours" else set(match[2].split(", "))
            below |= {room: imported - left_out for room in match[1].split(", ") if room not in left_out}
    return below


def flow() -> Drawing:
    """What is made of images on the way to a report, by which command, and who of ours takes part."""
    picture = Drawing("From images to a report: nnU-Net's commands, what they leave, and the rooms of ours at work")
    picture.text(122, 20, "command, and what it leaves", "middle", "bold")
    picture.text(310, 20, "at work", "middle", "bold")
    y = picture.box(42, 32, 160, ("images, labels",))
    steps = (
        (
            ("nnUNetv2_plan_and_preprocess", "or nnunetv2_mamba plan"),
            ("planning", "memory"),
            "plans, prepared data",
        ),
        (
            ("nnUNetv2_train -tr …", "or nnunetv2_mamba benchmark"),
            ("trainers", "by discovery", "architectures", "ops, losses"),
            "checkpoints, logs",
        ),
        (
            ("nnUNetv2_predict", "or nnunetv2_mamba predict"),
            ("architectures", "ops"),
            "segmentations",
        ),
        (("nnunetv2_mamba evaluate", "then compare"), ("evaluation", "results"), "tables, a report"),
    )
    for command, at_work, left in steps:
        picture.arrow([(122, y), (122, y + 16)])
        lower = picture.box(6, y + 16, 232, command, "conv")
        picture.box(250, y + 16, WIDTH - 256, at_work, "mamba")
        picture.line([(238, y + 28), (250, y + 28)])
        picture.arrow([(122, lower), (122, lower + 16)])
        y = picture.box(42, lower + 16, 160, (left,))
    return picture


def _height(room: str, below: Mapping[str, set[str]]) -> int:
    return max((1 + _height(other, below) for other in below[room]), default=0)


def _all_below(room: str, below: Mapping[str, set[str]]) -> set[str]:
    return below[room].union(*(_all_below(other, below) for other in below[room]))


def _needed(room: str, below: Mapping[str, set[str]]) -> list[str]:
    """Return what a room imports, without what that imports in turn."""
    further = set().union(*(_all_below(other, below) for other in below[room]))
    return sorted(below[room] - further)


PICTURES = {"rooms": rooms, "flow": flow}
