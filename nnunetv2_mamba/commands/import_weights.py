"""The verb ``import-weights`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

HELP = "turn published weights into a file for -pretrained_weights"
EXAMPLES = ("nnunetv2_mamba import-weights checkpoint.pt -o segmamba.pth",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="checkpoint of SegMamba, MedSegMamba, U-Mamba or U-Mamba2"
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT.pth", help="file to write")


def run(args: argparse.Namespace) -> int:
    from ..architectures.released_weights import convert

    print(convert(args.file, args.output))
    return 0
