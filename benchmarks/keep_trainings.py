"""Add the finished trainings of a sweep's folder to a file of results, which goes on from machine to machine.

    python benchmarks/keep_trainings.py FOLDER benchmarks/results/small_networks.json

Kept of each training: what cost.json says, the curve of validation Dice of patches, Dice, HD95 and NSD of each case and
structure, measured with the default options. A training that is there already is left as it is. Says which of the
sweep's are still to be made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nnunetv2_mamba.benchmark.conclusion import evaluate_models
from nnunetv2_mamba.benchmark.training import Training
from nnunetv2_mamba.evaluation.measured_otherwise import measured_otherwise
from nnunetv2_mamba.evaluation.metric_options import MetricOptions
from nnunetv2_mamba.evaluation.metrics import DEFAULT_METRICS
from nnunetv2_mamba.evaluation.tables import read_metrics
from nnunetv2_mamba.files import read_json_object, write_text
from nnunetv2_mamba.results.trained_model import read_trained_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="-o of nnunetv2_mamba benchmark")
    parser.add_argument("results", type=Path, help="JSON")
    arguments = parser.parse_args()
    kept = read_json_object(arguments.results) if arguments.results.exists() else {}
    trainings = [Training.read(file) for file in sorted(arguments.folder.glob("jobs/*.json"))]
    for training in trainings:
        if training.name not in kept and training.finished(arguments.folder):
            kept[training.name] = results_of(training, arguments.folder)
    lines = [f"{json.dumps(name)}: {json.dumps(training)}" for name, training in sorted(kept.items())]
    write_text(arguments.results, "{\n" + ",\n".join(lines) + "\n}\n")  # a training to a line
    waiting = [training.name for training in trainings if training.name not in kept]
    print(f"{len(kept)} trainings in {arguments.results}; still to be made: {len(waiting)}")
    print("\n".join(waiting))


def results_of(training: Training, folder: Path) -> dict:
    """Plain data of a finished training; it is evaluated first.

    Raises:
        SystemExit: somebody has measured what is kept in another way, and keeps that.
    """
    fold, model = training.folder(folder), training.folder(folder).parent
    evaluate_models({model: [fold.name]})
    if other := {*measured_otherwise(fold / "validation", MetricOptions())} & {*DEFAULT_METRICS}:
        raise SystemExit(
            f"{fold}: {', '.join(sorted(other))} was measured with other options than the default; "
            f"evaluate again: nnunetv2_mamba evaluate {fold}"
        )
    table = read_metrics(fold / "validation")
    table = table[table["metric"].isin(DEFAULT_METRICS)]
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.itertuples():
        values.setdefault(row.case, {}).setdefault(row.label, {})[row.metric] = round(row.value, 5)
    (trained,) = read_trained_model(model, [fold.name]).folds
    curve = [round(value, 4) for _, value in sorted(trained.curves["dice"].items())]
    return {"cost": trained.cost, "curve": curve, "cases": values}


if __name__ == "__main__":
    main()
