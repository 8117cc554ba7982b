"""The methods paragraph: what was compared, trained on what, measured and tested how, with versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from ...results.model_names import spelled_out
from ...text import times
from ...versions import installed_version
from ..comparison import RULES, Comparison
from ..evaluated_model import EvaluatedModel, Repetitions
from ..metrics import METRICS
from ..statistics import ALPHA, RESAMPLES, SIGN_FLIPS
from .summary_tables import Table

REFERENCES = (
    "Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature "
    "Methods 18, 203-211, 2021.",
    "Wilcoxon. Individual comparisons by ranking methods. Biometrics Bulletin 1, 80-83, 1945.",
    "Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6, 65-70, 1979.",
    "Efron. Better bootstrap confidence intervals. Journal of the American Statistical Association 82, 171-185, 1987.",
    "Kerby. The simple difference formula: an approach to teaching nonparametric correlation. Comprehensive Psychology "
    "3, 2014.",
    "Ibragimov, Mueller. t-statistic based correlation and heterogeneity robust inference. Journal of Business and "
    "Economic Statistics 28, 453-468, 2010.",
    "Hillis. A comparison of denominator degrees of freedom methods for multiple observer ROC analysis. Statistics in "
    "Medicine 26, 596-619, 2007.",
    "Satterthwaite. An approximate distribution of estimates of variance components. Biometrics Bulletin 2, 110-114, "
    "1946.",
    "Bland, Altman. Measuring agreement in method comparison studies. Statistical Methods in Medical Research 8, "
    "135-160, 1999.",
    "Bengio, Grandvalet. No unbiased estimator of the variance of K-fold cross-validation. Journal of Machine Learning "
    "Research 5, 1089-1105, 2004.",
    "Wiesenfarth et al. Methods and open-source toolkit for analyzing and visualizing challenge results. Scientific "
    "Reports 11, 2369, 2021.",
)


def paragraphs(comparison: Comparison, models: Repetitions) -> list[str]:
    """Write the paragraphs in plain text, for the report and for a paper."""
    return [
        _training(comparison, models),
        _measuring(models),
        *_testing_of_trainings(comparison),
        _testing(comparison),
        " ".join(RULES),
    ]


def model_table(comparison: Comparison, models: Repetitions) -> Table:
    """Make a table of what stands behind each name; unknown where nothing is recorded."""
    rows = [
        (
            name,
            *(_set(model.name and model.name[place] for model in models[name]) for place in range(3)),
            *_of_folds(models[name]),
        )
        for name in comparison.names
    ]
    head = ("model", "trainer", "plans", "configuration", "folds", "seeds", "epochs", "hardware", "trained with")
    return Table("What was compared", head, tuple(rows))


def _of_folds(models: list[EvaluatedModel]) -> tuple[str, ...]:
    """Write names, seeds, epochs, hardware and versions of the folds of a model's trainings."""
    folds = [fold for model in models for fold in model.folds]
    return (
        _set(fold.name for fold in folds),
        _set(fold.seed for fold in folds),
        _set(fold.epochs for fold in folds),
        _set(fold.hardware for fold in folds),
        _set(_versions(fold.versions) for fold in folds),
    )


def _training(comparison: Comparison, models: Repetitions) -> str:
    every = [model for own in models.values() for model in own]
    datasets = _set(model.dataset or model.plans.get("dataset_name") for model in every)
    texts = [f"{len(comparison.names)} models were compared on {len(comparison.cases)} cases of {datasets}."]
    repeated = [f"{name} ({count})" for name, count in comparison.repetitions.items() if count > 1]
    if repeated:
        texts.append(f"Repeated trainings were averaged within each case: {', '.join(repeated)}.")
    details = {name: _details(own) for name, own in models.items()}
    for detail in dict.fromkeys(details.values()):
        alike = [name for name in models if details[name] == detail]
        trainers = [f"{name} ({_set(map(_trainer, models[name]))})" for name in alike]
        texts.append(f"{', '.join(trainers)}: {detail}.")
    return " ".join(texts)


def _trainer(model: EvaluatedModel) -> str:
    return model.name.trainer if model.name else spelled_out(model.path).name


def _details(models: list[EvaluatedModel]) -> str:
    """Say how a model was trained, but for the trainer's name; the plans are those of its first path with folds."""
    first = next((model for model in models if model.folds), None)
    if first is None:
        return "nothing is recorded of the training"
    plan = first.configuration
    texts = [f"{first.name.plans}, {first.name.configuration}"]
    if "patch_size" in plan:
        texts.append(f"patch {times(plan['patch_size'])}")
    if "batch_size" in plan:
        texts.append(f"batch size {plan['batch_size']}")
    if "spacing" in plan:
        texts.append(f"spacing {times(plan['spacing'])} mm")
    folds, seeds, epochs, hardware, versions = _of_folds(models)
    return f"{', '.join(texts)}; folds {folds}; seeds {seeds}; epochs {epochs}; on {hardware} with {versions}"


def _measuring(models: Repetitions) -> str:
    found = [record for own in models.values() for model in own for record in model.evaluations.values() if record]
    if not found:
        return "How the metrics were measured is not recorded beside the tables."
    defined = {  # what single folds have besides is not compared
        name: text
        for name, text in found[0].get("definitions", {}).items()
        if all(name in record.get("definitions", {}) for record in found)
    }
    settings = dict.fromkeys(
        setting
        for name, metric in METRICS.items()
        if name in defined or not metric.group
        for setting in metric.settings
    )
    texts = [
        "Every case was evaluated at its own spacing in the geometry of its reference. Definitions: "
        + "; ".join(f"{_title(key)}: {text}" for key, text in defined.items())
        + ".",
        *(
            f"{setting.name[0].upper()}{setting.name[1:]} is {_set(record.get(setting.key) for record in found)}"
            f"{setting.unit and f' {setting.unit}'}."
            for setting in settings
        ),
        f"Measured with {_set(_versions(item.get('versions', {})) for item in found)}.",
    ]
    return " ".join(texts)


def _title(name: str) -> str:
    """Give a metric's title, or its name, where another version had it and this one has not."""
    return METRICS[name].title if name in METRICS else name


def _testing(comparison: Comparison) -> str:
    packages = ("nnunetv2-mamba", "scipy", "numpy", "pandas")
    with_versions = _versions({name: installed_version(name, "(checkout)") for name in packages})
    return (
        "Confidence intervals (95 %) of means and of mean differences are bootstrap intervals, bias-corrected and "
        f"accelerated, of {RESAMPLES} resamples of the cases (seed {comparison.seed}). Models were compared in "
        "pairs by the two-sided Wilcoxon signed-rank test over cases, which speaks of these trainings on further "
        "cases. Differences of zero were dropped first. Up to 50 other differences the test is exact; where some of "
        f"these are tied, by permutation of their signs (all up to 16 differences, else {SIGN_FLIPS} random ones). "
        "Above 50 it is the normal approximation with correction for ties and continuity. P-values were adjusted by "
        "Holm's method, for each metric in two families: all pairs on the mean over structures, and all pairs on all "
        "structures; metrics were not adjusted for each other, nor were intervals. An adjusted p-value of at most "
        f"{ALPHA} is called significant. The effect size is the matched-pairs rank-biserial correlation, from -1 to 1, "
        "positive where the first model is better. Wins are cases in which the first model is better. Ranks were taken "
        "within each case, ties sharing the mean of their places, averaged over cases and ranked; their stability is "
        f"that over {RESAMPLES} bootstrap samples of the cases. Computed with {with_versions}, Python "
        f"{platform.python_version()}."
    )


def _testing_of_trainings(comparison: Comparison) -> list[str]:
    """Describe the noise floor and the tests over trainings, as far as they were made."""
    tests = [test for item in comparison.structures for test in item.tests_of_trainings]
    texts = []
    if any(test.over == "folds" for test in tests):
        texts.append("Student's t-test of the differences between their mean scores in the folds, averaged over seeds")
    if any(test.over == "seeds" for test in tests):
        texts.append(
            "a t-test from an analysis of variance with seeds (nested in models) and cases as crossed random effects, "
            "variances of the two models' trainings not assumed equal, degrees of freedom by Satterthwaite, at most "
            "twice those of the seeds of the model that has fewer"
        )
    if not texts:
        return []
    return [
        "Networks were compared in pairs over their trainings by "
        f"{'; where there were too few folds, by '.join(texts)}. Every fold counts the same; p-values were adjusted by "
        "Holm's method in the families named below, on their own. These tests speak of the networks, trained again on "
        "these training sets, and of further cases. The noise floor is the standard deviation of the mean score "
        "between seeds of the same fold, and between folds without what the models have in common there, pooled over "
        "models; its limit is the larger repeatability limit of two single trainings."
    ]


def _versions(versions: dict) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in versions.items() if value) or None


def _set(values: Iterable[object]) -> str:
    """Write the different values in order; what is not recorded is said once."""
    texts = dict.fromkeys("not recorded" if value is None else str(value) for value in values)
    return ", ".join(texts) or "not recorded"
