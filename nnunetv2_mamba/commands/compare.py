"""The verb ``compare`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

from ..evaluation.metrics import DEFAULT_METRICS, METRICS
from ..text import printable

HELP = "compare evaluated models case by case: statistics, tables, figures, one HTML report"
EXAMPLES = ("nnunetv2_mamba compare predictions_a predictions_b --names A B -o comparison",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="evaluated results folders of trainers, folders of predictions, or evaluation.csv files; two or more",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="one for each; twice the same: repetitions (seeds)")
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="METRIC",
        help=f"{', '.join(METRICS)} (default: {' '.join(DEFAULT_METRICS)})",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("comparison"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="for the overlays; default: the data set's imagesTr")
    parser.add_argument("--references", type=Path, metavar="DIR", help="for the overlays; default: as evaluated")


def run(args: argparse.Namespace) -> int:
    from ..evaluation.compare_results import compare_results
    from ..evaluation.report.wording import findings

    comparison = compare_results(
        args.results, args.output, args.names, args.metric or DEFAULT_METRICS, args.seed, args.images, args.references
    )
    for line in [*findings(comparison), *(f"Note: {note}" for note in comparison.notes)]:
        print(printable(line))
    print(printable(f"written: {args.output / 'report.html'}, with tables and figures beside it"))
    return 0
