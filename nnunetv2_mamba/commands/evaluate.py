"""The verb ``evaluate`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

from ..evaluation.metrics import METRICS
from ..text import joined_by_and, printable

_DISTANCES = joined_by_and([metric.title for metric in METRICS.values() if metric.one_empty is None])
HELP = f"measure predictions: {', '.join(metric.title for metric in METRICS.values())} per case and label"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="REF_DIR",
        help="references; or, with no PRED_DIR, a trainer's results folder or a fold in it, to evaluate its validation",
    )
    parser.add_argument("predictions", type=Path, nargs="?", metavar="PRED_DIR", help="predictions of the same cases")
    parser.add_argument("--dataset-json", type=Path, metavar="FILE", help="default: beside PRED_DIR's, above REF_DIR")
    parser.add_argument("--plans", type=Path, metavar="FILE", help="plans.json; default: PRED_DIR's, if there")
    parser.add_argument("-o", dest="output", type=Path, metavar="OUT", help="folder; default: that of the predictions")
    parser.add_argument(
        "--nsd-tolerance", type=float, default=1.0, metavar="MM", help="of the surfaces, for NSD (default: %(default)s)"
    )
    parser.add_argument(
        "--empty-distance",
        choices=("inf", "diagonal"),
        default="inf",
        help=f"{_DISTANCES} of a label in one of the images only: infinite (default) or the image's diagonal",
    )
    parser.add_argument("-np", type=int, metavar="N", help="processes")


def run(args: argparse.Namespace) -> int:
    from ..evaluation.case_results import format_means
    from ..evaluation.evaluate_pairings import evaluate_pairings
    from ..evaluation.metric_options import MetricOptions
    from ..evaluation.pairings import from_folders, from_results, shared_cases
    from ..results.folds import TRAINING_CASES, note_on_left_out

    options = MetricOptions(args.nsd_tolerance, args.empty_distance)
    notes = []
    if args.predictions is None:
        if args.dataset_json or args.plans:
            raise ValueError("a results folder has its own dataset.json and plans.json: leave the options out")
        pairings = from_results(args.folder, args.output)
        notes = [note_on_left_out(args.folder)]
    else:
        pairings = [from_folders(args.folder, args.predictions, args.dataset_json, args.plans, args.output)]
    tables = evaluate_pairings(pairings, options, args.np)
    print(format_means(tables, options))
    if any(pairing.training_cases for pairing in pairings):
        notes.append(TRAINING_CASES)
    notes.append(shared_cases(pairings))
    notes += dict.fromkeys(note for pairing in pairings for note in pairing.notes)
    for note in filter(None, notes):
        print(printable(f"Note: {note}."))
    for pairing in pairings:
        print(printable(f"written: {pairing.output / 'evaluation.csv'} and .json"))
    return 0
