"""The verb ``evaluate`` of the command ``nnunetv2_mamba``."""

import argparse
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from ..evaluation.metric_options import GROUPS, LESIONS, LesionRule, MetricOptions
from ..evaluation.metrics import METRICS, metrics_of
from ..text import joined_by_and, printable

_DISTANCES = joined_by_and([metric.title for metric in METRICS.values() if metric.one_empty == "distance"])
_RULE = LesionRule()
HELP = f"measure predictions: {', '.join(metric.title for metric in metrics_of().values())} per case and label"
EXAMPLES = (
    "nnunetv2_mamba evaluate labelsTs predictions --add lesions",
    "nnunetv2_mamba evaluate Dataset004_Hippocampus/nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres",
)


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
    parser.add_argument(
        "--add", nargs="+", choices=GROUPS, default=[], metavar="GROUP", help=f"measure more: {'; '.join(_groups())}"
    )
    lesions = parser.add_argument_group(f"with --add {LESIONS}; the defaults are those of BraTS 2023 and ISLES 2026")
    for flag, kind, metavar, text in (
        ("dilation", int, "N", "how often the reference is dilated to join lesions and to find what belongs to them"),
        ("connectivity", int, "N", "of the voxels of a lesion: 6, 18 or 26 neighbours"),
        ("smallest", float, "MM3", "lesions of the reference up to this volume are left out"),
        ("penalty", float, "MM", "lesion-wise HD95 of a missed or invented lesion"),
        ("iou", float, "IOU", "that lesions matched by lesion-wise F1 have at least"),
    ):
        lesions.add_argument(
            f"--lesion-{flag}", type=kind, metavar=metavar, help=f"{text} (default: {getattr(_RULE, flag):g})"
        )
    parser.add_argument("-np", type=int, metavar="N", help="processes")


def run(args: argparse.Namespace) -> int:
    from ..evaluation.case_results import format_means
    from ..evaluation.evaluate_pairings import evaluate_pairings
    from ..evaluation.pairings import from_folders, from_results, shared_cases
    from ..results.folds import TRAINING_CASES, note_on_left_out

    options = MetricOptions(
        args.nsd_tolerance,
        args.empty_distance,
        tuple(group for group in GROUPS if group in args.add),
        _lesion_rule(args),
    )
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


def _groups() -> Iterator[str]:
    """Write the groups of metrics with what they hold."""
    for group, summary in GROUPS.items():
        titles = [metric.title for metric in METRICS.values() if metric.group == group]
        yield f"{group} ({summary}): {', '.join(titles)}"


def _lesion_rule(args: argparse.Namespace) -> LesionRule:
    """Take the options of lesions.

    Raises:
        ValueError: one was given and does nothing, since lesions are not measured, or is out of range.
    """
    given = {field.name: getattr(args, f"lesion_{field.name}") for field in fields(LesionRule)}
    given = {name: value for name, value in given.items() if value is not None}
    if given and LESIONS not in args.add:
        raise ValueError(
            f"--lesion-{next(iter(given))} is for the metrics of lesions: add --add {LESIONS}, or leave it out"
        )
    return LesionRule(**given)
