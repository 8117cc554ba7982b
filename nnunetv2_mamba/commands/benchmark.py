"""The verb ``benchmark`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

from ..benchmark.sweep import ready_made

HELP = "train, evaluate and compare a sweep of data sets, plans, trainers, folds and seeds"
EXAMPLES = (
    "nnunetv2_mamba benchmark mamba_vs_nnunet.toml -d 4 --dry-run",
    "nnunetv2_mamba benchmark sweep.toml -o results",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE.toml",
        help=f"the sweep (docs/benchmarking.md), or one that is ready: {', '.join(ready_made())}",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, metavar="FOLDER", help="for all results (default: named like FILE); resumes"
    )
    parser.add_argument("-d", dest="datasets", nargs="+", default=[], metavar="ID", help="instead of the file's")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and how long they may take")


def run(args: argparse.Namespace) -> int:
    from ..benchmark.command import benchmark

    return benchmark(args.file, args.output or Path(Path(args.file).stem), args.datasets, args.dry_run)
