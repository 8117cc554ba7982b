"""How figures look: dark on white, colours that colour-blind readers tell apart (Okabe & Ito), names in full."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX*"
_WIDTH = 10.0  # inches: 8-point text is readable on a laptop and on paper
_SETTINGS = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the settings of all figures, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def colour(position: int) -> str:
    return COLOURS[position % len(COLOURS)]


def marker(position: int) -> str:
    """Give a model's marker: it changes with every model, and meets other colours once these are used up."""
    return MARKERS[(position + position // len(COLOURS)) % len(MARKERS)]


def wrapped(name: str, width: int = 26) -> str:
    return "\n".join(textwrap.wrap(name, width)) or name


def panels(count: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure with a grid of ``count`` panels of ``height`` inches."""
    columns = 2 if count == 4 else min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(_WIDTH if columns > 1 else 0.7 * _WIDTH, rows * height + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]
