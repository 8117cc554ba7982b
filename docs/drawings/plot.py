"""Axes and curves within a drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .svg import Drawing


class Plot:
    """Axes within a picture, and curves between them."""

    def __init__(
        self,
        picture: Drawing,
        left: float,
        top: float,
        width: float,
        height: float,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
    ):
        self.picture = picture
        self.x = _scale(x_range, left, left + width)
        self.y = _scale(y_range, top + height, top)
        self.edges = left, top, left + width, top + height

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str) -> None:
        left, top, right, bottom = self.edges
        self.picture.line([(left, top), (left, bottom), (right, bottom)])
        for tick in x_ticks:
            self.picture.text(self.x(tick), bottom + 14, _number(tick), "middle")
        for tick in y_ticks:
            self.picture.text(left - 5, self.y(tick) + 4, _number(tick), "end")
            self.picture.line([(left - 3, self.y(tick)), (left, self.y(tick))])
        if x_title:
            self.picture.text((left + right) / 2, bottom + 30, x_title, "middle")

    def curve(self, x: Sequence[float], y: Sequence[float], kind: str) -> None:
        self.picture.line([(round(self.x(a), 1), round(self.y(b), 1)) for a, b in zip(x, y, strict=True)], kind)


def legend(picture: Drawing, y: float, entries: Sequence[tuple[float, str, str]]) -> None:
    """Write a line on y that explains dots: of each kind where it begins, the kind, and what it is."""
    for x, kind, text in entries:
        picture.dot(x, y - 4, kind)
        picture.text(x + 8, y, text)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _scale(domain: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - domain[0]) / (domain[1] - domain[0]) * (end - start)
