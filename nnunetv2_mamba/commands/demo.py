"""The verb ``demo`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

HELP = "train, predict and evaluate on a synthetic data set, in minutes"
EXAMPLES = ("nnunetv2_mamba demo -o demo",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("nnunetv2_mamba_demo"),
        metavar="FOLDER",
        help="folder for everything the demo writes (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from ..demo.pipeline import run as run_demo

    return run_demo(args.output)
