"""The verb ``calibrate`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

HELP = "fit a temperature on a model's validation, so that its probabilities are as often right as they say"
EXAMPLES = ("nnunetv2_mamba calibrate Dataset004_Hippocampus/nnUNetTrainerSegMamba__nnUNetPlans__3d_fullres",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        type=Path,
        metavar="RESULTS",
        help="a trainer's results folder, or a fold in it, validated by nnUNetv2_train ... --val --npz",
    )


def run(args: argparse.Namespace) -> int:
    from ..evaluation.calibrate_results import calibrate
    from ..evaluation.pairings import from_results
    from ..packaging.checksums import sha256
    from ..results.folds import note_on_left_out
    from ..temperature_file import write_temperature
    from ..text import printable

    pairings = from_results(args.results)
    calibration = calibrate(pairings)
    model = pairings[0].output.parent.parent
    files = [file for pairing in pairings for file in sorted(pairing.output.parent.glob("checkpoint_*.pth"))]
    checkpoints = {file.relative_to(model).as_posix(): sha256(file) for file in files}
    file = write_temperature(model, calibration.temperature, calibration.as_json(), checkpoints)
    print(calibration.in_words())
    if note := note_on_left_out(args.results):
        print(printable(f"Note: {note}."))
    print(printable(f"written: {file}"))
    return 0
