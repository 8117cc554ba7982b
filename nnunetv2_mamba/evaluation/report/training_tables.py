"""The tables of what trainings tell: the noise floor, and the networks in pairs."""

from __future__ import annotations

from ..comparison import Comparison, StructureComparison
from ..metrics import METRICS
from ..noise_floor import Spread
from .summary_tables import Table
from .wording import p_value, tested_over, verdict, with_interval, yes_or_no

ALL = "all models"


def noise_table(comparison: Comparison) -> Table | None:
    """Make a table of models x metrics: standard deviations of the mean score; None where no model is trained twice."""
    items = [item for item in comparison.overall if item.noise.seeds or item.noise.folds]
    if not items:
        return None
    head = ["model", "trainings"]
    counts = [*comparison.trainings.values()]
    columns = [[*comparison.names, ALL], [str(count) for count in (*counts, sum(counts))]]
    for item in items:
        metric, noise = METRICS[item.metric], item.noise
        head += [f"{metric.heading}: SD between seeds", "SD between folds", "limit"]
        for own, of_all in ((noise.seeds, noise.all_seeds), (noise.folds, noise.all_folds)):
            columns.append([_spread(own.get(name), item) for name in comparison.names] + [_spread(of_all, item)])
        own_limits = (noise.seeds[name].limit if name in noise.seeds else None for name in comparison.names)
        columns.append(["unknown" if limit is None else metric.precise(limit) for limit in (*own_limits, noise.limit)])
    caption = (
        f"Noise floor, {items[0].structure}: standard deviation (SD) of a training's mean score, with its degrees of "
        "freedom. Between seeds: trainings of the same fold. Between folds: means over seeds; in the last row without "
        "what all models have in common in a fold (how difficult its cases are). Limit: two trainings of the same "
        "network are less than this apart 95 times in 100; of a model by its own seeds, in the last row as if all "
        "models varied alike"
    )
    return Table(caption, tuple(head), tuple(zip(*columns, strict=True)))


def training_pairs(comparison: Comparison, metric: str) -> Table | None:
    """List the pairs of models that have several trainings each, on the mean over structures or the only structure."""
    item = comparison.of(metric)[0]
    tests = item.tests_of_trainings
    if not tests:
        return None
    rows = tuple(
        (
            pair.first,
            pair.second,
            with_interval(test.difference, test.low, test.high, metric),
            f"{tested_over(test)}, {test.df:.3g} df",
            p_value(test.p),
            p_value(test.p_holm),
            yes_or_no(item.exceeds(pair)),
            verdict(test),
        )
        for pair in item.pairs
        if (test := pair.trainings) is not None
    )
    head = ("first", "second", "first - second", "over", "p", "p (Holm)", "exceeds the limit", "finding")
    caption = (
        f"{METRICS[metric].heading}, {item.structure}, the networks: trained again, on further cases. Mean difference "
        "with its 95 % confidence interval, t-test with the random effect of the training, degrees of freedom, the "
        "p-value adjusted by Holm, and whether the difference is more than the limit of the noise floor of all models"
    )
    significant = frozenset((row, len(head) - 1) for row, test in enumerate(tests) if test.significant)
    return Table(caption, head, rows, significant)


def _spread(spread: Spread | None, item: StructureComparison) -> str:
    return "unknown" if spread is None else f"{METRICS[item.metric].precise(spread.deviation)} ({spread.df} df)"
