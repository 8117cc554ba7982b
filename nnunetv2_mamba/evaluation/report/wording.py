"""Numbers and findings in words, honest where nothing was found."""

from __future__ import annotations

import math

from ...text import joined_by_and
from ..comparison import Comparison, Pair, StructureComparison
from ..metrics import METRICS


def with_interval(value: float, low: float, high: float, metric: str) -> str:
    """Write a mean with its interval as ``0.8123 [0.8011, 0.8230]``."""
    shown = METRICS[metric].number
    return shown(value) if math.isnan(low) else f"{shown(value)} [{shown(low)}, {shown(high)}]"


def p_value(p: float) -> str:
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def verdict(pair: Pair) -> str:
    if not pair.significant:
        return "no significant difference"
    return "first better" if pair.better == pair.first else "second better"


def finding(item: StructureComparison) -> str:
    """Write one paragraph: what the comparison shows of one metric on one structure, and what it does not."""
    metric = METRICS[item.metric]
    lower = metric.lower_is_better
    best = (min if lower else max)(item.results, key=lambda result: result.mean)
    tied = [result.name for result in item.results if result.mean == best.mean]
    head = (
        f"{metric.heading}, {item.structure}, {len(item.values)} cases: {joined_by_and(tied)} "
        f"{'has' if len(tied) == 1 else 'have'} the {'lowest' if lower else 'highest'} mean, "
        f"{with_interval(best.mean, best.low, best.high, item.metric)}. "
    )
    n_significant = sum(pair.significant for pair in item.pairs)
    if not n_significant:
        between = "the two models" if len(item.results) == 2 else "any two models"
        return head + f"No significant difference between {between} was found ({_open(item.pairs, item.metric)})."
    sentences = []
    own = [pair for pair in item.pairs if best.name in (pair.first, pair.second)]
    better = [pair for pair in own if pair.significant and pair.better == best.name]
    worse = [pair for pair in own if pair.significant and pair.better != best.name]
    level = [pair for pair in own if not pair.significant]
    if better:
        sentences.append(
            f"It is significantly better than {joined_by_and([_against(pair, best.name) for pair in better])}."
        )
    if worse:
        others = joined_by_and([_against(pair, best.name) for pair in worse])
        sentences.append(f"Yet over the cases the test speaks against it and for {others}: look at the single cases.")
    if level:
        others = joined_by_and([pair.second if pair.first == best.name else pair.first for pair in level])
        sentences.append(f"No significant difference between it and {others} was found ({_open(level, item.metric)}).")
    if len(item.pairs) > 1:
        sentences.append(f"In all, {n_significant} of {len(item.pairs)} pairs differ significantly.")
    return head + " ".join(sentences)


def findings(comparison: Comparison) -> list[str]:
    """Write one paragraph per metric, and what holds for all where something was not found."""
    items = comparison.overall
    texts = [finding(item) for item in items]
    if any(not pair.significant for item in items for pair in item.pairs):
        texts.append(
            "A difference that is not significant is not shown to be absent: the confidence interval of the mean "
            "difference says how large it may still be."
        )
    return texts


def _against(pair: Pair, best: str) -> str:
    return f"{pair.second if pair.first == best else pair.first} (p {_p(pair.p_holm)})"


def _p(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _open(pairs: tuple[Pair, ...] | list[Pair], metric: str) -> str:
    """Say how large the differences may be that were not found."""
    least = min(pair.p_holm for pair in pairs)
    ends = [abs(end) for pair in pairs for end in (pair.low, pair.high) if not math.isnan(end)]
    p = f"{'smallest ' if len(pairs) > 1 else ''}p {_p(least)}"
    if not ends:
        return p
    return f"{p}; the intervals leave room for mean differences of up to {METRICS[metric].number(max(ends))}"
