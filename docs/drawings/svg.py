"""Boxes, arrows and curves as SVG whose text stays text and whose colours follow the reader's light or dark scheme.

Written by hand, because no drawing library at hand does both: matplotlib's colours follow no scheme, Graphviz is a
program to install. Pictures are as wide as a phone (``WIDTH``), so that none is scaled below what can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

WIDTH = 376
LINE = 15  # pixels from one line of text to the next

# light, dark
INK = {"ink": ("#24292f", "#e6e8ee"), "paper": ("#ffffff", "#1c1e26"), "line": ("#6a7079", "#9aa1ad")}
FILLS = {
    "plain": ("#eef0f3", "#343842"),
    "conv": ("#d9e6f7", "#274568"),
    "mamba": ("#ffe2bd", "#7a4a12"),
    "kan": ("#dcf0d6", "#2c5a2c"),
    "loss": ("#f8d7dd", "#71303c"),
}
CURVES = {"first": ("#2563ad", "#7fb2f0"), "second": ("#b45309", "#f2a65a"), "third": ("#2f7d32", "#86d08a")}


def _style() -> str:
    colours = INK | FILLS | CURVES
    light, dark = (";".join(f"--{name}:{pair[index]}" for name, pair in colours.items()) for index in (0, 1))
    rules = {
        "text": "font:12px system-ui,sans-serif;fill:var(--ink)",
        ".bold": "font-weight:600",
        ".small": "font-size:11px",
        ".paper": "fill:var(--paper)",
        ".box": "stroke:var(--line)",
        ".line": "stroke:var(--line);fill:none",
        ".thick": "stroke-width:1.6",
        ".dashed": "stroke-dasharray:4 3",
        ".head": "fill:var(--line)",
    }
    rules |= {f".{name}": f"fill:var(--{name})" for name in FILLS}
    for name in CURVES:
        rules[f".{name}"] = f"stroke:var(--{name});fill:none;stroke-width:2"
        rules[f".dot.{name}"] = f"fill:var(--{name})"
    schemes = [f".drawing{{{light}}}", f"@media (prefers-color-scheme:dark){{.drawing{{{dark}}}}}"]
    # named after the drawing, so that they stay in it where it is part of a page (mkdocs_pictures.py)
    return "\n".join([*schemes, *(f".drawing {which}{{{rule}}}" for which, rule in rules.items())])


class Drawing:
    """A picture that grows downwards: what is drawn says where, and the lowest of it is the end.

    Args:
        title: what it shows, for those who do not see it.
        width: in pixels.
    """

    def __init__(self, title: str, width: int = WIDTH):
        self.title, self.width, self.height = title, width, 0.0
        self._content: list[str] = []

    def box(self, x: float, y: float, width: float, lines: Sequence[str], kind: str = "plain") -> float:
        """Draw a box around lines of text, the first of them bold, and return the y of its lower edge."""
        height = LINE * len(lines) + 9
        self._add(
            f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="5"/>', y + height
        )
        for index, line in enumerate(lines):
            self.text(x + width / 2, y + LINE * (index + 1), line, "middle", "small" if index else "bold")
        return y + height

    def text(self, x: float, y: float, text: str, anchor: str = "start", style: str = "small") -> None:
        """Write a line whose letters stand on y; ``anchor`` is ``start``, ``middle`` or ``end``."""
        self._add(f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>', y + 4)

    def circle(self, x: float, y: float, sign: str) -> None:
        """Draw an operation: a sign in a circle around (x, y)."""
        self._add(f'<circle class="box paper" cx="{x:g}" cy="{y:g}" r="9"/>', y + 9)
        self.text(x, y + 4, sign, "middle", "bold")

    def dot(self, x: float, y: float, kind: str) -> None:
        """Mark a place of a plot."""
        self._add(f'<circle class="dot {kind}" cx="{x:g}" cy="{y:g}" r="4"/>', y + 4)

    def line(self, points: Iterable[tuple[float, float]], style: str = "line") -> None:
        """Draw a line through points."""
        points = list(points)
        path = "M" + "L".join(f"{x:.5g} {y:.5g}" for x, y in points)
        self._add(f'<path class="{style}" d="{path}"/>', max(y for _, y in points))

    def arrow(self, points: Sequence[tuple[float, float]], style: str = "line thick") -> None:
        """Draw a line through points that are right or left of, or above or below, each other; a head at the last."""
        self.line(points, style)
        (x0, y0), (x, y) = points[-2:]
        dx, dy = ((x > x0) - (x < x0)), ((y > y0) - (y < y0))
        left, right = (f"{x - 7 * dx - side * 4 * dy:g} {y - 7 * dy + side * 4 * dx:g}" for side in (1, -1))
        self._add(f'<path class="head" d="M{x:g} {y:g}L{left}L{right}Z"/>', y)

    def svg(self) -> str:
        """Return the document."""
        width, height = self.width, round(self.height + 8)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'class="drawing" role="img">\n<title>{escape(self.title)}</title>\n<style>{_style()}</style>\n'
            f'<rect class="paper" width="{width}" height="{height}" rx="6"/>\n'
            + "\n".join(self._content)
            + "\n</svg>\n"
        )

    def _add(self, element: str, lower_edge: float) -> None:
        self._content.append(element)
        self.height = max(self.height, lower_edge)
