"""Numbers and findings in words, honest where nothing was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ...text import joined_by_and
from ..comparison import Comparison, Pair, Result, StructureComparison
from ..metric import Metric
from ..metrics import METRICS
from ..noise_floor import NoiseFloor
from ..training_tests import TrainingTest

_NAMED = 3  # pairs that a sentence names; of more it gives the number


def with_interval(value: float, low: float, high: float, metric: str) -> str:
    """Write a mean with its interval as ``0.8123 [0.8011, 0.8230]``."""
    shown = METRICS[metric].number
    return shown(value) if math.isnan(low) else f"{shown(value)} [{shown(low)}, {shown(high)}]"


def p_value(p: float) -> str:
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def yes_or_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[value]


def tested_over(test: TrainingTest) -> str:
    """Write what varies in a test over trainings."""
    folds = f"{test.n_folds} fold{'s' if test.n_folds > 1 else ''}"
    return folds if test.over == "folds" else f"seeds of {folds}"


def verdict(pair: Pair | TrainingTest) -> str:
    if not pair.significant:
        return "no significant difference"
    return "first better" if pair.better == pair.first else "second better"


def finding(item: StructureComparison) -> str:
    """Write one paragraph: what the comparison shows of one metric on one structure, and what it does not."""
    metric = METRICS[item.metric]
    best = _best(item.results, metric)
    tied = [result.name for result in item.results if result.mean == best.mean]
    head = (
        f"{metric.heading}, {item.structure}, {len(item.values)} cases: {joined_by_and(tied)} "
        f"{'has' if len(tied) == 1 else 'have'} the {'lowest' if metric.lower_is_better else 'highest'} mean, "
        f"{with_interval(best.mean, best.low, best.high, item.metric)}. "
    )
    parts = [head + noise_finding(item)]
    if tests := item.tests_of_trainings:
        over = joined_by_and([*dict.fromkeys(tested_over(test) for test in tests)])
        parts.append(f"The networks, trained again ({over}): {_of_tests(tests, item)}")
    parts.append(f"These trainings, on further cases: {_of_tests(item.pairs, item)}")
    return " ".join(parts)


def _best(results: Iterable[Result], metric: Metric) -> Result:
    return (min if metric.lower_is_better else max)(results, key=lambda result: result.mean)


def noise_finding(item: StructureComparison) -> str:
    """Write the noise floor of a metric, and which differences exceed it."""
    noise, metric = item.noise, METRICS[item.metric]
    if noise.limit is None:
        return "How much trainings vary is not known."
    spreads = (("seeds", noise.all_seeds), ("folds", noise.all_folds))
    deviations = [
        f"{metric.precise(spread.deviation)} between {name} ({spread.df} df)" for name, spread in spreads if spread
    ]
    more = [f"{pair.first} and {pair.second}" for pair in item.pairs if item.exceeds(pair)]
    if not more:
        further = "No two models are"
    else:
        further = f"{len(more)} of {len(item.pairs)} pairs are" if more[_NAMED:] else f"{', '.join(more)} are"
    return (
        f"Noise floor: standard deviation of the mean {joined_by_and(deviations)}{_unlike(noise, metric)}; two "
        f"trainings of the same network, if all vary alike, are less than {metric.precise(noise.limit)} apart 95 times "
        f"in 100. {further} further apart."
    )


def _unlike(noise: NoiseFloor, metric: Metric) -> str:
    """Write between which models' standard deviations the one between seeds lies."""
    if len(noise.seeds) < 2:
        return ""
    by_deviation = sorted(noise.seeds, key=lambda name: noise.seeds[name].deviation)
    ends = (f"{metric.precise(noise.seeds[name].deviation)} ({name})" for name in (by_deviation[0], by_deviation[-1]))
    return f", {' to '.join(ends)} between seeds of single models"


def _of_tests(tests: Sequence[Pair | TrainingTest], item: StructureComparison) -> str:
    """Write what tests of one kind show of the model with the best mean of those in them, and what they do not."""
    n_significant = sum(test.significant for test in tests)
    if not n_significant:
        return f"No significant difference between {_tested(tests, item)} was found ({_open(tests, item.metric)})."
    in_them = {name for test in tests for name in (test.first, test.second)}
    best = _best([result for result in item.results if result.name in in_them], METRICS[item.metric]).name
    sentences = []
    own = [test for test in tests if best in (test.first, test.second)]
    better = [test for test in own if test.significant and test.better == best]
    worse = [test for test in own if test.significant and test.better != best]
    level = [test for test in own if not test.significant]
    if better:
        others = joined_by_and([_against(test, best) for test in better])
        sentences.append(f"{best} is significantly better than {others}.")
    if worse:
        others = joined_by_and([_against(test, best) for test in worse])
        sentences.append(f"Yet the test speaks against {best} and for {others}: look at the single cases.")
    if level:
        others = joined_by_and([test.second if test.first == best else test.first for test in level])
        sentences.append(
            f"No significant difference between {best} and {others} was found ({_open(level, item.metric)})."
        )
    if len(tests) > 1:
        sentences.append(f"In all, {n_significant} of {len(tests)} pairs differ significantly.")
    return " ".join(sentences)


def _tested(tests: Sequence[Pair | TrainingTest], item: StructureComparison) -> str:
    """Write between which models tests of one kind were made; those over trainings may not have all pairs."""
    if len(item.results) == 2:
        return "the two models"
    if len(tests) == len(item.pairs):
        return "any two models"
    if tests[_NAMED:]:
        return f"the models of any of the {len(tests)} pairs, of {len(item.pairs)}, that have trainings to compare"
    return ", nor ".join(f"{test.first} and {test.second}" for test in tests)


def single_trainings(comparison: Comparison) -> str | None:
    """Warn of models of which one training differs significantly over cases; None where there is none."""
    pairs = {
        name
        for item in comparison.structures
        for pair in item.pairs
        if pair.significant and pair.trainings is None
        for name in (pair.first, pair.second)
    }
    names = [name for name, count in comparison.trainings.items() if count == 1 and name in pairs]
    if not names:
        return None
    is_one = f"{joined_by_and(names)} {'is a single training' if len(names) == 1 else 'are single trainings'}"
    return (
        f"{is_one}: what is significant over cases holds for these trainings. One training per model cannot tell "
        "networks apart; train several folds or seeds of each."
    )


def findings(comparison: Comparison) -> list[str]:
    """Write one paragraph per metric, and what holds for all where something was not found."""
    items = comparison.overall
    texts = [finding(item) for item in items]
    if warning := single_trainings(comparison):
        texts.append(warning)
    tests = [test for item in items for pair in item.pairs for test in (pair, pair.trainings) if test is not None]
    if not all(test.significant for test in tests):
        texts.append(
            "A difference that is not significant is not shown to be absent: the confidence interval of the mean "
            "difference says how large it may still be."
        )
    return texts


def _against(pair: Pair | TrainingTest, best: str) -> str:
    return f"{pair.second if pair.first == best else pair.first} (adjusted p {_p(pair.p_holm)})"


def _p(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _open(pairs: Sequence[Pair | TrainingTest], metric: str) -> str:
    """Say how large the differences may be that were not found."""
    least = min(pair.p_holm for pair in pairs)
    ends = [abs(end) for pair in pairs for end in (pair.low, pair.high) if not math.isnan(end)]
    p = f"{'smallest ' if len(pairs) > 1 else ''}adjusted p {_p(least)}"
    if not ends:
        return p
    return f"{p}; the intervals leave room for mean differences of up to {METRICS[metric].number(max(ends))}"
