"""A tour of the report that ``nnunetv2_mamba compare`` writes: its sections, what each looks like and says."""

from __future__ import annotations

from collections.abc import Callable

from .svg import Drawing

_ICON = 84, 44  # pixels


def _sentences(picture: Drawing, x: float, y: float) -> None:
    for index, length in enumerate((68, 60, 66, 40)):
        picture.line([(x + 8, y + 9 + 9 * index), (x + 8 + length, y + 9 + 9 * index)], "line thick")


def _table(picture: Drawing, x: float, y: float) -> None:
    for row in range(4):
        picture.line([(x + 8, y + 8 + 9 * row), (x + 76, y + 8 + 9 * row)])
    for column in range(4):
        picture.line([(x + 30 + 15 * column, y + 8), (x + 30 + 15 * column, y + 35)])


def _pairs(picture: Drawing, x: float, y: float) -> None:
    for index, shift in enumerate((-3, 4, 2, 7, 5)):
        picture.line([(x + 14, y + 34 - 5 * index), (x + 70, y + 30 - 5 * index - shift / 2)], "first")
    picture.line([(x + 14, y + 18), (x + 70, y + 26)], "second")


def _scatter(picture: Drawing, x: float, y: float) -> None:
    picture.line([(x + 10, y + 6), (x + 10, y + 36), (x + 76, y + 36)])
    for place, (right, up) in enumerate(((12, 8), (26, 20), (44, 18), (58, 25))):
        picture.dot(x + 10 + right, y + 36 - up, ("first", "second")[place % 2])


def _curves(picture: Drawing, x: float, y: float) -> None:
    picture.line([(x + 10, y + 6), (x + 10, y + 36), (x + 76, y + 36)])
    for kind, height in (("first", 24), ("second", 18)):
        picture.line([(x + 10 + step, y + 36 - height * step / (step + 14)) for step in range(0, 66, 6)], kind)


def _cases(picture: Drawing, x: float, y: float) -> None:
    for column, kind in enumerate(("first", "second", "third")):
        left = x + 8 + 24 * column
        picture.line([(left, y + 10), (left + 20, y + 10), (left + 20, y + 34), (left, y + 34), (left, y + 10)])
        picture.line(
            [(left + 5, y + 18), (left + 14, y + 16), (left + 15, y + 27), (left + 6, y + 28), (left + 5, y + 18)], kind
        )


# What stands at the top, then the sections by their titles; METRIC stands for one section of each metric.
METRIC = "Dice, HD95, NSD"
SECTIONS: dict[str, tuple[Callable[[Drawing, float, float], None], tuple[str, ...]]] = {
    "Findings and notes": (_sentences, ("the result in sentences; what a reader", "must know before believing it")),
    "Noise floor": (_table, ("how much trainings differ that differ", "in seed or fold only: the limit")),
    "Differences": (_table, ("every pair: difference, interval, p-value,", "and whether it exceeds the limit")),
    "Cost": (_scatter, ("parameters, FLOP, time, memory", "beside the first metric")),
    "What we do not know": (_sentences, ("what these data cannot tell, in words",)),
    METRIC: (_pairs, ("a section each: every case under both", "models, structures, boxes, p-values")),
    "Learning curves": (_curves, ("losses and Dice over the epochs;", "who was still improving?")),
    "Worst, median and best case": (_cases, ("contours on the image, of cases chosen", "by the mean over all models")),
    "Methods": (_sentences, ("to be copied into a paper, with what", "was run and by which versions")),
    "References": (_sentences, ("of the statistics and metrics",)),
}


def tour() -> Drawing:
    """The sections from top to bottom."""
    picture = Drawing("The sections of a report from top to bottom, and what stands in each")
    width, height = _ICON
    y = 10.0
    for title, (icon, lines) in SECTIONS.items():
        picture.line([(8, y), (8 + width, y), (8 + width, y + height), (8, y + height), (8, y)], "box paper")
        icon(picture, 8, y)
        picture.text(18 + width, y + 13, title, style="bold")
        for index, line in enumerate(lines):
            picture.text(18 + width, y + 28 + 14 * index, line)
        y += height + 10
    return picture


PICTURES = {"tour": tour}
