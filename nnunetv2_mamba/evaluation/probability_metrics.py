"""Metrics of a label's probability in the voxels that count, all but the ignored ones, not of the segmentation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .metric import metric
from .metric_options import PROBABILITIES, MetricOptions

if TYPE_CHECKING:
    from .mask_pair import MaskPair
    from .probabilities import LabelProbability

N_BINS = 15  # of Guo et al.


@metric(
    "PR-AUC",
    "average precision of the label's probability over all voxels, the area under the precision-recall curve as a step "
    "function: sum of (R_n - R_n-1) P_n (scikit-learn); NaN where the reference lacks the label",
    one_empty="function", group=PROBABILITIES,
)  # fmt: skip
def pr_auc(pair: MaskPair, _: MetricOptions) -> float:
    from sklearn.metrics import average_precision_score

    return average_precision_score(pair.probability.member, pair.probability.values) if pair.n_reference else math.nan


@metric(
    "ECE",
    f"expected calibration error of the label's probability over all voxels: |mean probability - share of the label| "
    f"in {N_BINS} bins of equal width, weighted by their voxels (Guo et al., ICML 2017; the label against the rest)",
    decimals=6, lower_is_better=True, one_empty="function", group=PROBABILITIES,
)  # fmt: skip
def ece(pair: MaskPair, _: MetricOptions) -> float:
    return expected_calibration_error(pair.probability)


def expected_calibration_error(probability: LabelProbability) -> float:
    """Compute what the metric ECE is."""
    import numpy as np

    values, member = probability.values, probability.member
    bins = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], values, side="left")  # ((m - 1) / 15, m / 15]
    expected = np.bincount(bins, values, N_BINS)
    found = np.bincount(bins[member], minlength=N_BINS)
    return np.abs(expected - found).sum() / values.size
