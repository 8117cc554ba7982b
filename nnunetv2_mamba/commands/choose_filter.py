"""The verb ``choose-filter`` of the command ``nnunetv2_mamba``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ..evaluation.component_rules import FILE

HELP = "choose on validation folds which small components to remove, and say what it changes"
EXAMPLES = ("nnunetv2_mamba choose-filter Dataset004_Hippocampus/nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL_FOLDER",
        help="TRAINER__PLANS__CONFIGURATION in nnU-Net's results, validated, or a fold in it",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="FILE", help=f"(default: {FILE} in the folder of the model)"
    )


def run(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..evaluation.component_validation import choose_filter
    from ..evaluation.pairings import from_results
    from ..files import write_json
    from ..results.folds import note_on_left_out
    from ..text import printable

    pairings = from_results(args.model)
    chosen, report = choose_filter(pairings)
    for name, found in report.items():
        rule = chosen.rules.get(name)
        print(
            printable(f"{name}: {rule or 'keep all'}; on held-out cases the mean Dice changes by {found['gain']:+.6f}")
        )
        for line in _lines(found.get("held_out", {})):
            print(printable(f"  {line}"))
    if note := note_on_left_out(args.model):
        print(printable(f"Note: {note}."))
    output = args.output or pairings[0].output.parent.parent / FILE
    write_json(output, {**asdict(chosen), "report": report})
    print(printable(f"written: {output}"))
    return 0


def _lines(held_out: dict[str, dict]) -> Iterator[str]:
    """A line for each part of the cases and for all."""
    for part, found in held_out.items():
        metrics = [
            f"{title} {_number(found['before'][name], digits)} to {_number(found['after'][name], digits)}{unit}"
            for name, title, digits, unit in (
                ("dice", "Dice", 4, ""),
                ("hd95", "HD95", 2, " mm"),
                ("lesion_f1", "lesion-wise F1", 4, ""),
            )
        ]
        yield (
            f"{part}: {found['removed']} components removed, {found['changed']} of {found['cases']} cases changed; "
            + ", ".join(metrics)
        )


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"
