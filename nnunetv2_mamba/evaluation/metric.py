"""The record of a metric, and how a function is entered as one: ``metrics.METRICS`` has all.

A metric is a function of a pair of masks and of the options; ``metric`` enters it with all else that must be known of
it. What metrics share, such as surface distances or lesions, belongs to ``MaskPair``, which computes it once.

Help texts are made of the entries, so the files that enter metrics import nothing but the standard library and text:
what a function needs besides, it imports when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from .metric_options import EMPTY_DISTANCE, MetricOptions, Setting

if TYPE_CHECKING:
    from .mask_pair import MaskPair

SLACK = 1e-5  # spacings in files are 32-bit: without it a neighbour at 1.0000001 mm would not be within 1 mm


@dataclass(frozen=True)
class Metric:
    """A metric of one label in one case.

    Attributes:
        name: in tables and files.
        title: in reports.
        definition: in ``evaluation.json`` and in the methods paragraph.
        function: its value where the label is in both images.
        unit: ``"mm"`` or another, or empty for a pure number.
        decimals: shown in reports.
        lower_is_better: whether the best value is the smallest, 0; otherwise it is the largest, 1.
        one_empty: where a label is in one of the images only: this value; the distance of the option
            ``empty_distance``; or what the function says.
        depends_on: settings that the value depends on, besides the labels and ``empty_distance``.
        condition: beside the name where the means are printed, with fields of ``MetricOptions``.
        group: of ``metric_options.GROUPS``, measured where a user asks for it; empty: always measured.
    """

    name: str
    title: str
    definition: str
    function: Callable[[MaskPair, MetricOptions], float]
    unit: str = ""
    decimals: int = 4
    lower_is_better: bool = False
    one_empty: float | Literal["distance", "function"] = 0.0
    depends_on: tuple[Setting, ...] = ()
    condition: str = ""
    group: str = ""

    @property
    def best(self) -> float:
        """The value of a prediction that rightly lacks a label, where another model's does not."""
        return 0.0 if self.lower_is_better else 1.0

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings that the value depends on, besides the labels."""
        return (*self.depends_on, EMPTY_DISTANCE) if self.one_empty == "distance" else self.depends_on

    @property
    def heading(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title

    @property
    def direction(self) -> str:
        return "lower is better" if self.lower_is_better else "higher is better"

    def number(self, value: float) -> str:
        """The value as reports show it, without the unit."""
        return "unknown" if math.isnan(value) else f"{value:.{self.decimals}f}"

    def precise(self, value: float) -> str:
        """The value with one digit more than ``number``, for standard deviations."""
        return f"{value:.{self.decimals + 1}f}"

    def column(self, options: MetricOptions) -> str:
        """The heading of printed means."""
        return self.name + (f" [{self.unit}]" if self.unit else "") + self.condition.format_map(asdict(options))

    def value(self, pair: MaskPair, options: MetricOptions) -> float:
        """The value, also where one of the masks is empty; NaN where both are."""
        if not pair.n_reference and not pair.n_prediction:
            return math.nan
        if self.one_empty == "function" or (pair.n_reference and pair.n_prediction):
            return float(self.function(pair, options))
        if self.one_empty == "distance":
            return pair.diagonal if options.empty_distance == "diagonal" else math.inf
        return self.one_empty


ENTERED: dict[str, Metric] = {}


def metric(title: str, definition: str, **fields: object) -> Callable[[Callable], Callable]:
    """Enter a function as the metric of its name. New ones come last: the bootstrap's seed counts those before."""

    def enter(function: Callable[[MaskPair, MetricOptions], float]) -> Callable[[MaskPair, MetricOptions], float]:
        ENTERED[function.__name__] = Metric(function.__name__, title, definition, function, **fields)
        return function

    return enter
