"""The report as one HTML file: no script, nothing fetched, every name escaped."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from .summary_tables import Table

_DPI = 150
_LARGE = 375_000  # bytes of one picture; a report of 30 structures, 7 models and 3 metrics stays below 10 MB
# Spaces within an interval and after a sign: lines break elsewhere.
_TOGETHER = re.compile(r"(?<=\d,) (?=-?\d)|(?<=[=<]) (?=\d)|(?<=\bp) (?=[=<])")


@dataclass(frozen=True)
class Illustration:
    """A figure for the report. ``name``: of its files; ``alt``: the same in words; ``photo``: pixels, not lines."""

    name: str
    figure: Figure
    caption: str
    alt: str
    photo: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report, in the order text, tables, illustrations; ``folded`` tables open on a click or in print."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    illustrations: tuple[Illustration, ...] = ()
    folded: tuple[Table, ...] = ()


def render(title: str, lead: str, findings: list[str], notes: list[str], sections: list[Section]) -> str:
    """Write the whole file."""
    loader = PackageLoader("nnunetv2_mamba.evaluation.report", package_path="")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["data_uri"] = data_uri
    environment.filters["together"] = lambda text: _TOGETHER.sub("\N{NO-BREAK SPACE}", text)
    return environment.get_template("report.html.jinja").render(
        title=title, lead=lead, findings=findings, notes=notes, sections=sections
    )


def data_uri(illustration: Illustration) -> Markup:
    """Put the picture into a URI. Lines stay lines, unless so many that the file could not be mailed any more."""
    if illustration.photo:
        return _uri("png", picture(illustration.figure, "png"))
    lines = picture(illustration.figure, "svg")
    if len(lines) < _LARGE:
        return _uri("svg+xml", lines)
    return _uri("webp", picture(illustration.figure, "webp", pil_kwargs={"quality": 75}))


def _uri(kind: str, content: bytes) -> Markup:
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def picture(figure: Figure, ending: str, **options: Any) -> bytes:
    """Make the content of a file with the figure; ``options`` are those of ``savefig``."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, dpi=_DPI, **options)
    return buffer.getvalue()
