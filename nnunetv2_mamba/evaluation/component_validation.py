"""A component filter chosen on the validation of a model's folds, and what it changes on held-out cases.

A label gets a rule only where the mean Dice of held-out cases rises by the rules that were chosen without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from tqdm import tqdm

from .case_measurement import measure_label_maps
from .component_choice import LabelChoice, case_components, choose_rule, indices_of
from .component_filter import filtered
from .component_rules import ComponentFilter
from .held_out import HeldOutCase, held_out_cases
from .metric_options import LESIONS, MetricOptions
from .pairings import Pairing

METRICS = ("dice", "hd95", "lesion_f1")
_OPTIONS = MetricOptions(empty_distance="diagonal", groups=(LESIONS,))
ALL = "all"


def choose_filter(pairings: Sequence[Pairing]) -> tuple[ComponentFilter, dict]:
    """Choose a filter.

    Args:
        pairings: the validations of a model's folds. Of a single one, every fifth case is held out in turn.

    Returns:
        The filter, and by label what was found: ``gain`` of the mean Dice on held-out cases. Labels with a rule, and
        where there are regions all of them, have ``held_out`` too: by part and for ``ALL`` the number of ``cases``, of
        those that were ``changed``, of ``removed`` components, and ``before`` and ``after`` the means of ``METRICS`` as
        ``evaluate`` measures them, with the image's diagonal as distance to an empty mask.

    Raises:
        ValueError: for files that cannot be measured, naming them, and as ``held_out_cases``.
    """
    cases = held_out_cases(pairings)
    labels = pairings[0].labels
    found: dict[str, dict[str, list]] = {label.name: {} for label in labels.measured}
    for case in tqdm(cases, desc="components", unit="case"):
        for name, components in zip(found, case_components(*case.read(), labels), strict=True):
            found[name].setdefault(case.part, []).append(components)
    choices = {name: choose_rule(parts) for name, parts in found.items()}
    rules = {name: choice.rule for name, choice in choices.items() if choice.rule}
    report: dict[str, dict] = {name: {"gain": choice.gain} for name, choice in choices.items()}
    if rules:
        for name, held_out in _measure(cases, {name: choices[name] for name in rules}).items():
            report[name]["held_out"] = held_out
    return ComponentFilter(rules), report


def _measure(cases: Sequence[HeldOutCase], choices: dict[str, LabelChoice]) -> dict[str, dict[str, dict]]:
    """Measure held-out cases before and after the rules that were chosen without them; by label and part."""
    labels = cases[0].pairing.labels
    has_regions = any(len(label.values) > 1 for label in labels.measured)
    shown = replace(labels, measured=tuple(label for label in labels.measured if has_regions or label.name in choices))
    rows: dict[str, dict[str, list[dict]]] = {label.name: {} for label in shown.measured}
    for case in tqdm(cases, desc="held out", unit="case"):
        reference, prediction = case.read()
        part_filter = ComponentFilter({name: choice.by_part[case.part] for name, choice in choices.items()})
        voxel_mm3 = float(np.prod(prediction.geometry.spacing))
        background = labels.known.index(0) + 1
        indices, removed = filtered(prediction.indices, part_filter, indices_of(labels), voxel_mm3, background)
        before = measure_label_maps(reference, prediction, shown, _OPTIONS)
        after = measure_label_maps(reference, replace(prediction, indices=indices), shown, _OPTIONS)
        for label in shown.measured:
            row = {"removed": removed.get(label.name, 0), "before": before[label.key], "after": after[label.key]}
            rows[label.name].setdefault(case.part, []).append(row)
    return {
        name: {**{part: _means(own) for part, own in parts.items()}, ALL: _means(list(chain(*parts.values())))}
        for name, parts in rows.items()
    }


def _means(rows: Sequence[dict]) -> dict:
    """As ``evaluate``, without cases where a value is NaN: the label is in neither image."""
    return {
        "cases": len(rows),
        "changed": sum(row["before"]["n_pred"] != row["after"]["n_pred"] for row in rows),
        "removed": sum(row["removed"] for row in rows),
        **{
            when: {metric: _mean([row[when][metric] for row in rows]) for metric in METRICS}
            for when in ("before", "after")
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    """None, as JSON has no NaN, where no value is a number."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else None
