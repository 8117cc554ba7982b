"""The methods paragraph: what was compared, trained on what, measured and tested how, with versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from ..catalog import METRICS
from ..comparison import RULES, Comparison
from ..statistics import ALPHA, RESAMPLES, SIGN_FLIPS
from ..summary import installed_version
from .runs import Run
from .summary_tables import Table

REFERENCES = (
    "Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature "
    "Methods 18, 203-211, 2021.",
    "Wilcoxon. Individual comparisons by ranking methods. Biometrics Bulletin 1, 80-83, 1945.",
    "Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6, 65-70, 1979.",
    "Efron. Better bootstrap confidence intervals. Journal of the American Statistical Association 82, 171-185, 1987.",
    "Kerby. The simple difference formula: an approach to teaching nonparametric correlation. Comprehensive Psychology "
    "3, 2014.",
    "Wiesenfarth et al. Methods and open-source toolkit for analyzing and visualizing challenge results. Scientific "
    "Reports 11, 2369, 2021.",
)


def paragraphs(comparison: Comparison, runs: dict[str, list[Run]]) -> list[str]:
    """Plain text, for the report and for a paper."""
    return [_training(comparison, runs), _measuring(runs), _testing(comparison), " ".join(RULES)]


def models(comparison: Comparison, runs: dict[str, list[Run]]) -> Table:
    """What stands behind each name; unknown where nothing is recorded."""
    rows = []
    for name in comparison.names:
        own = runs[name]
        folds = [fold for run in own for fold in run.folds]
        rows.append(
            (
                name,
                _set(run.trainer for run in own),
                _set(run.plans_name for run in own),
                _set(run.configuration for run in own),
                _set(fold.name for fold in folds),
                _set(fold.cost.get("seed") for fold in folds),
                _set(fold.cost.get("epochs") or fold.debug.get("num_epochs") for fold in folds),
                _set(_hardware(fold.cost, fold.debug) for fold in folds),
                _set(_torch(fold.cost, fold.debug) for fold in folds),
            )
        )
    head = ("model", "trainer", "plans", "configuration", "folds", "seeds", "epochs", "hardware", "trained with")
    return Table("What was compared", head, tuple(rows))


def _training(comparison: Comparison, runs: dict[str, list[Run]]) -> str:
    every = [run for own in runs.values() for run in own]
    datasets = _set(run.dataset or run.plans.get("dataset_name") for run in every)
    texts = [f"{len(comparison.names)} models were compared on {len(comparison.cases)} cases of {datasets}."]
    repeated = [f"{name} ({count})" for name, count in comparison.repetitions.items() if count > 1]
    if repeated:
        texts.append(f"Repeated trainings were averaged within each case: {', '.join(repeated)}.")
    details = {name: _details(own) for name, own in runs.items()}
    for detail in dict.fromkeys(details.values()):
        alike = [name for name in runs if details[name] == detail]
        trainers = [f"{name} ({_set(run.trainer or run.path.name for run in runs[name])})" for name in alike]
        texts.append(f"{', '.join(trainers)}: {detail}.")
    return " ".join(texts)


def _details(runs: list[Run]) -> str:
    """How a model was trained, but for the trainer's name; the plans are those of its first path."""
    folds = [fold for run in runs for fold in run.folds]
    if not folds:
        return "nothing is recorded of the training"
    first = runs[0]
    plan = _plan(first.plans.get("configurations"), first.configuration)
    texts = [f"{first.plans_name}, {first.configuration}"]
    if "patch_size" in plan:
        texts.append(f"patch {' x '.join(map(str, plan['patch_size']))}")
    if "batch_size" in plan:
        texts.append(f"batch size {plan['batch_size']}")
    if "spacing" in plan:
        texts.append(f"spacing {' x '.join(f'{length:g}' for length in plan['spacing'])} mm")
    return (
        f"{', '.join(texts)}; folds {_set(fold.name for fold in folds)}; seeds "
        f"{_set(fold.cost.get('seed') for fold in folds)}; epochs "
        f"{_set(fold.cost.get('epochs') or fold.debug.get('num_epochs') for fold in folds)}; on "
        f"{_set(_hardware(fold.cost, fold.debug) for fold in folds)} with "
        f"{_set(_torch(fold.cost, fold.debug) for fold in folds)}"
    )


def _plan(configurations: object, name: str | None) -> dict:
    """The configuration with what it inherits; what the plans do not have is left out."""
    plan: dict = {}
    seen: set[str | None] = set()
    while isinstance(configurations, dict) and isinstance(own := configurations.get(name), dict) and name not in seen:
        seen.add(name)
        plan = own | plan
        name = own.get("inherits_from")
    return plan


def _measuring(runs: dict[str, list[Run]]) -> str:
    found = [record for own in runs.values() for run in own for record in run.evaluations.values() if record]
    if not found:
        return "How the metrics were measured is not recorded beside the tables."
    texts = [
        "Every case was evaluated at its own spacing in the geometry of its reference. Definitions: "
        + "; ".join(f"{_title(key)}: {text}" for key, text in found[0].get("definitions", {}).items()),
        f". The tolerance of NSD is {_set(item.get('nsd_tolerance_mm') for item in found)} mm.",
        f" Measured with {_set(_versions(item.get('versions', {})) for item in found)}.",
    ]
    return "".join(texts)


def _title(name: str) -> str:
    """Of a metric, also of one that another version had."""
    return METRICS[name].title if name in METRICS else name


def _testing(comparison: Comparison) -> str:
    packages = ("nnunetv2-mamba", "scipy", "statsmodels", "numpy", "pandas")
    with_versions = _versions({name: installed_version(name, "(checkout)") for name in packages})
    return (
        "Confidence intervals (95 %) of means and of mean differences are bootstrap intervals, bias-corrected and "
        f"accelerated, of {RESAMPLES} resamples of the cases (seed {comparison.seed}). Models were compared in "
        "pairs by the two-sided Wilcoxon signed-rank test over cases. Differences of zero were dropped first. Up to "
        "50 other differences the test is exact; where some of these are tied, by permutation of their signs (all up "
        f"to 16 differences, else {SIGN_FLIPS} random ones). Above 50 it is the normal approximation with correction "
        "for ties and continuity. P-values were adjusted by Holm's method, for each metric in "
        "two families: all pairs on the mean over structures, and all pairs on all structures; metrics were not "
        f"adjusted for each other. An adjusted p-value of at most {ALPHA} is called significant. The effect size is "
        "the matched-pairs rank-biserial correlation, from -1 to 1, positive where the first model is better. Wins "
        "are cases in which the first model is better. Ranks were taken within each case, ties sharing the mean of "
        f"their places, averaged over cases and ranked; their stability is that over {RESAMPLES} bootstrap samples "
        "of the cases. The tests see the variation between cases; that between repeated trainings only enters "
        f"where several seeds are compared. Computed with {with_versions}, Python {platform.python_version()}."
    )


def _hardware(cost: dict, debug: dict) -> str | None:
    return cost.get("device") or debug.get("gpu_name") or debug.get("device")


def _torch(cost: dict, debug: dict) -> str | None:
    versions = cost.get("versions") or {"torch": debug.get("torch_version")}
    return _versions(versions)


def _versions(versions: dict) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in versions.items() if value) or None


def _set(values: Iterable[object]) -> str:
    """The different values, in order; what is not recorded is said once."""
    texts = dict.fromkeys("not recorded" if value is None else str(value) for value in values)
    return ", ".join(texts) or "not recorded"
