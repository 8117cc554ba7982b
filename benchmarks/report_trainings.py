"""Tables of what `keep_trainings.py` has kept: models, noise floor, pairs, learning curves.

    python benchmarks/report_trainings.py benchmarks/results/small_networks.json [MODEL ...] [--every EPOCHS]

of all models, or of those named (patterns: 'SegMamba*'). Markdown, as in docs/results.md. Models are compared on the
folds that all of them have by now, with all seeds of these; the first line says which, and which are left out. The
pairs that the small networks are trained for, `FAMILIES`, come first, each family on its own for Holm's method. What a
step costs is measured apart (`benchmarks/step_time.py`, kept beside the results as `..._step_time.json`, if at all),
because trainings run beside other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.comparison import Comparison, StructureComparison
from nnunetv2_mamba.evaluation.metrics import DEFAULT_METRICS
from nnunetv2_mamba.evaluation.report.summary_tables import Table, markdown, overview
from nnunetv2_mamba.evaluation.report.training_tables import noise_table, training_pairs
from nnunetv2_mamba.evaluation.report.wording import p_value, with_interval
from nnunetv2_mamba.evaluation.statistics import holm
from nnunetv2_mamba.evaluation.training_statistics import over_folds
from nnunetv2_mamba.files import read_json, read_json_object

# Pairs of models, by their names, that are compared whatever the results are
FAMILIES: dict[str, Callable[[str, str], bool]] = {
    "The networks and their twins without Mamba": lambda first, second: second == f"{first}NoMamba",
    "Mamba and what stands in its place": lambda first, second: second in (f"{first}Conv", f"{first}Mamba2"),
    "The network's own scan and other orders": lambda first, second: second.startswith(f"{first}, "),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON")
    parser.add_argument("models", nargs="*", default=["*"], metavar="MODEL", help="names or patterns; all by default")
    parser.add_argument("--every", type=int, default=10, metavar="EPOCHS", help="of a curve (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.every < 2:
        parser.error(f"--every must be 2 epochs or more, got {arguments.every}")
    trainings = {
        name: training
        for name, training in with_models(read_json_object(arguments.results)).items()
        if any(fnmatch(training["model"], pattern) for pattern in arguments.models)
    }
    compared = in_common(trainings)
    if not compared:
        parser.error(f"no fold that all of these have: {'; '.join(by_model(trainings)) or 'no model'}; name others")
    if len(budgets := {str(training["cost"].get("budget")) for training in compared.values()}) > 1:
        parser.error(f"trainings of different budgets are not compared: {'; '.join(sorted(budgets))}")
    comparison = compare_tables(tables_of(compared))
    measured = arguments.results.with_name(f"{arguments.results.stem}_step_time.json")
    steps = read_json(measured) if measured.exists() else []
    tables = [
        summary(compared, comparison, {row["trainer"]: row["seconds_per_step"] for row in steps}, arguments.every),
        overview(comparison),
        noise_table(comparison),
        *(family_pairs(comparison, family, metric) for family in FAMILIES for metric in DEFAULT_METRICS),
        *(training_pairs(comparison, metric) for metric in DEFAULT_METRICS),
    ]
    print(folds_compared(trainings), "", sep="\n")
    print("\n".join(markdown(table) for table in tables if table is not None))


def with_models(trainings: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """Give each training the name of its `model` in the tables, which tells those of other plans apart."""
    models = {name: (training["cost"]["trainer"], training["cost"]["plans"]) for name, training in trainings.items()}
    names = {model: network_of(*model) for model in models.values()}
    shared = {name for name, count in Counter(names.values()).items() if count > 1}
    names = {model: f"{name}, {model[1]}" if name in shared else name for model, name in names.items()}
    return {name: {**training, "model": names[models[name]]} for name, training in trainings.items()}


def network_of(trainer: str, plans: str) -> str:
    """The name of the network, with the scan order where the small plans are called after one."""
    own = trainer.removeprefix("nnUNetTrainer") or ("ResidualEncoderUNet" if "ResEnc" in plans else "PlainConvUNet")
    scan = re.search(r"SmallScan(\w+)Plans", plans)
    return f"{own}, {'_'.join(re.findall('[A-Z][a-z]*', scan[1])).lower()}" if scan else own


def by_model(trainings: Mapping[str, Mapping]) -> dict[str, list[Mapping]]:
    """The trainings of each model, by its name."""
    models: dict[str, list[Mapping]] = {}
    for training in sorted(trainings.values(), key=lambda training: training["model"]):
        models.setdefault(training["model"], []).append(training)
    return models


def folds_of(trainings: Mapping[str, Mapping]) -> dict[str, set[int]]:
    """The folds that each model has."""
    return {model: {own["cost"]["fold"] for own in found} for model, found in by_model(trainings).items()}


def in_common(trainings: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The trainings of the folds that every model has."""
    common = set.intersection(*folds_of(trainings).values()) if trainings else set()
    return {name: training for name, training in trainings.items() if training["cost"]["fold"] in common}


def folds_compared(trainings: Mapping[str, Mapping]) -> str:
    """Say on which folds the models are compared, which are left out, and because of whom."""
    folds = folds_of(trainings)
    every, common = set.union(*folds.values()), set.intersection(*folds.values())
    text = f"Compared on folds {', '.join(map(str, sorted(common)))}."
    if every == common:
        return text
    lacking = "; ".join(model for model, own in folds.items() if own != every)
    return f"{text} Left out: {', '.join(map(str, sorted(every - common)))}, of which these lack some: {lacking}."


def family_pairs(comparison: Comparison, family: str, metric: str) -> Table | None:
    """List the pairs of a family; None where no two of them have several trainings each."""
    own = family_only(comparison, family)
    table = training_pairs(own, metric)
    caption = f"{family}, a family of their own for Holm's method"
    return table and dataclasses.replace(
        table, caption=f"{caption}. {table.caption}", rows=(*table.rows, *mean_of_pairs(own, metric))
    )


def mean_of_pairs(family: Comparison, metric: str) -> list[tuple[str, ...]]:
    """Return the row of all first and all second models, whose difference is that of the pairs averaged in each fold.

    No row where there are fewer than three folds, or a single pair.
    """
    item = family.of(metric)[0]
    trainings = pd.DataFrame([vars(mean) for mean in item.noise.means])
    of_folds = trainings.pivot_table("mean", "fold", "model")  # means over seeds
    if len(of_folds) < 3 or len(item.pairs) < 2:
        return []
    firsts, seconds = ([getattr(pair, side) for pair in item.pairs] for side in ("first", "second"))
    found = over_folds((of_folds[firsts].mean(axis=1) - of_folds[seconds].mean(axis=1)).to_numpy())
    mean, low, high, p, df = (float(value) for value in found)
    interval = with_interval(mean, low, high, metric)
    return [("mean of these", "mean of these", interval, f"{len(of_folds)} folds, {df:.3g} df", p_value(p), "", "", "")]


def family_only(comparison: Comparison, family: str) -> Comparison:
    """Keep the pairs of a family, on the mean over structures; Holm's method over these alone."""

    def kept(item: StructureComparison) -> StructureComparison:
        pairs = [pair for pair in item.pairs if pair.trainings and FAMILIES[family](pair.first, pair.second)]
        adjusted = holm([pair.trainings.p for pair in pairs]).tolist()
        tests = [dataclasses.replace(pair.trainings, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]
        own = (dataclasses.replace(pair, trainings=test) for pair, test in zip(pairs, tests, strict=True))
        return dataclasses.replace(item, pairs=tuple(own))

    return dataclasses.replace(comparison, structures=tuple(map(kept, comparison.overall)))


def tables_of(trainings: Mapping[str, Mapping]) -> list[tuple[str, pd.DataFrame]]:
    """The values of each model and seed, as `compare_tables` takes them."""
    rows: dict[tuple[str, int], list[tuple]] = {}
    for training in trainings.values():
        cost = training["cost"]
        rows.setdefault((training["model"], cost["seed"]), []).extend(
            (case, label, metric, value, f"fold_{cost['fold']}")
            for case, labels in training["cases"].items()
            for label, metrics in labels.items()
            for metric, value in metrics.items()
        )
    columns = ["case", "label", "metric", "value", "fold"]
    return [(model, pd.DataFrame(own, columns=columns)) for (model, _), own in sorted(rows.items())]


def summary(trainings: Mapping[str, Mapping], comparison: Comparison, steps: Mapping[str, float], every: int) -> Table:
    """Size and cost of each model, its mean Dice and its curve of validation Dice.

    Args:
        trainings: those that are compared.
        steps: seconds by ``TRAINER@PLANS``.
        every: epochs between the points of a curve, each the mean of the second half of these.
    """
    (dice,) = (item for item in comparison.overall if item.metric == "dice")
    means = dict(zip(comparison.names, dice.results, strict=True))
    epochs = range(every, max(len(training["curve"]) for training in trainings.values()) + 1, every)
    rows = []
    for model, found in by_model(trainings).items():
        cost = found[0]["cost"]
        step, spread = steps.get(f"{cost['trainer']}@{cost['plans']}"), dice.noise.seeds.get(model)
        points = (statistics.mean(statistics.mean(own["curve"][e - every // 2 : e]) for own in found) for e in epochs)
        rows.append(
            (
                model,
                f"{cost['parameters'] / 1e6:.2f}",
                f"{cost['flops'] / 1e9:.2f}",
                f"{step:.2f}" if step else "",
                str(comparison.trainings[model]),
                f"{means[model].mean:.4f}",
                f"{spread.deviation:.4f}" if spread else "",
                " ".join(f"{point:.3f}" for point in points),
            )
        )
    head = ("network", "parameters, M", "GFLOP", "s / step", "trainings", "Dice", "SD between seeds", "curve")
    caption = (
        "Arithmetic of a patch forwards; a step alone, on an idle machine; trainings that are compared, and their mean "
        f"Dice. Curve: validation Dice of patches, mean of the {every // 2} epochs up to the {every}th, {2 * every}th, "
        "... and of these trainings"
    )
    return Table(caption, head, tuple(rows))


if __name__ == "__main__":
    main()
