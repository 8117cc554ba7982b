"""The metrics, an entry for each. Tables, statistics, reports, help texts and the documentation follow from them.

A metric is a function of a pair of masks, neither of them empty, and of the options; ``_metric`` enters it in
``METRICS`` with all else that must be known of it. What metrics share, such as surface distances, belongs to
``MaskPair``, which computes it once.

Help texts are made of the entries, so this file imports nothing but the standard library and text: what a function
needs besides, it imports when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..text import joined_by_and
from .metric_options import NSD_TOLERANCE, ONE_EMPTY, MetricOptions, Setting

if TYPE_CHECKING:
    from .mask_pair import MaskPair

NEITHER = "in neither image: every metric is NaN and left out of the means; 1 would reward a label's absence"
DEFAULT_METRICS = ("dice", "hd95", "nsd")  # of a comparison
# Spacings in files are 32-bit: without this a neighbour at 1.0000001 mm would not be within 1 mm.
_SLACK = 1e-5


@dataclass(frozen=True)
class Metric:
    """A metric of one label in one case.

    Attributes:
        name: in tables and files.
        title: in reports.
        definition: in ``evaluation.json`` and in the methods paragraph.
        function: its value where the label is in both images.
        unit: ``"mm"``, or empty for a pure number.
        decimals: shown in reports.
        lower_is_better: whether the best value is the smallest, 0; otherwise it is the largest, 1.
        one_empty: where a label is in one of the images only; None: the distance of the option ``empty_distance``.
        depends_on: settings that the value depends on, besides the labels and ``empty_distance``.
        condition: beside the name where the means are printed, with fields of ``MetricOptions``.
    """

    name: str
    title: str
    definition: str
    function: Callable[[MaskPair, MetricOptions], float]
    unit: str = ""
    decimals: int = 4
    lower_is_better: bool = False
    one_empty: float | None = 0.0
    depends_on: tuple[Setting, ...] = ()
    condition: str = ""

    @property
    def best(self) -> float:
        """The value of a prediction that rightly lacks a label, where another model's does not."""
        return 0.0 if self.lower_is_better else 1.0

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings that the value depends on, besides the labels."""
        return self.depends_on if self.one_empty is not None else (*self.depends_on, ONE_EMPTY)

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
        if pair.n_reference and pair.n_prediction:
            return float(self.function(pair, options))
        if not pair.n_reference and not pair.n_prediction:
            return math.nan
        if self.one_empty is not None:
            return self.one_empty
        return pair.diagonal if options.empty_distance == "diagonal" else math.inf


METRICS: dict[str, Metric] = {}


def measure_masks(pair: MaskPair, options: MetricOptions) -> dict[str, float]:
    """Compute all metrics of a pair of masks."""
    return {name: metric.value(pair, options) for name, metric in METRICS.items()}


def rule_for_one_empty(options: MetricOptions) -> str:
    """Say which values a label gets that is in one image only."""
    distance = {"inf": "infinite", "diagonal": "the diagonal of the image in mm"}[options.empty_distance]
    names: dict[str, list[str]] = {}
    for metric in METRICS.values():
        value = distance if metric.one_empty is None else f"{metric.one_empty:g}"
        names.setdefault(value, []).append(metric.name)
    rules = [f"{joined_by_and(own)} {'are' if own[1:] else 'is'} {value}" for value, own in names.items()]
    return f"in one image only: {', '.join(rules)}"


def _metric(title: str, definition: str, **fields: object) -> Callable[[Callable], Callable]:
    """Enter a function as the metric of its name. New ones come last: the bootstrap's seed counts those before."""

    def enter(function: Callable[[MaskPair, MetricOptions], float]) -> Callable[[MaskPair, MetricOptions], float]:
        METRICS[function.__name__] = Metric(function.__name__, title, definition, function, **fields)
        return function

    return enter


@_metric("Dice", "2 TP / (2 TP + FP + FN)")
def dice(pair: MaskPair, _: MetricOptions) -> float:
    return 2 * pair.tp / (2 * pair.tp + pair.fp + pair.fn)


@_metric("IoU", "TP / (TP + FP + FN)")
def iou(pair: MaskPair, _: MetricOptions) -> float:
    return pair.tp / (pair.tp + pair.fp + pair.fn)


@_metric("Volume similarity", "1 - |FN - FP| / (2 TP + FP + FN)")
def volume_similarity(pair: MaskPair, _: MetricOptions) -> float:
    return 1 - abs(pair.fn - pair.fp) / (2 * pair.tp + pair.fp + pair.fn)


@_metric(
    "HD95",
    "mm; the larger of the two directions' 95th percentiles of the surface distances (linear interpolation)",
    unit="mm", decimals=2, lower_is_better=True, one_empty=None,
)  # fmt: skip
def hd95(pair: MaskPair, _: MetricOptions) -> float:
    from numpy import percentile

    return max(percentile(distances, 95) for distances in pair.directed_distances)


@_metric(
    "ASSD",
    "mm; mean of the surface distances of both directions together",
    unit="mm", decimals=2, lower_is_better=True, one_empty=None,
)  # fmt: skip
def assd(pair: MaskPair, _: MetricOptions) -> float:
    return pair.distances.mean()


@_metric(
    "NSD",
    "share of the surface voxels of both masks whose surface distance is at most the tolerance",
    depends_on=(NSD_TOLERANCE,), condition=" at {nsd_tolerance:g} mm",
)  # fmt: skip
def nsd(pair: MaskPair, options: MetricOptions) -> float:
    return (pair.distances <= options.nsd_tolerance * (1 + _SLACK)).mean()
