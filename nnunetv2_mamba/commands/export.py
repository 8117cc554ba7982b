"""The verb ``export`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

HELP = "write a trained model's forward of one patch as an ONNX or torch.export file"
EXAMPLES = ("nnunetv2_mamba export MODEL_FOLDER --onnx network.onnx",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="MODEL_FOLDER|ZIP", help="TRAINER__PLANS__CONFIGURATION in nnU-Net's results"
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--onnx", type=Path, metavar="FILE", help="needs onnx, onnxscript and onnxruntime")
    target.add_argument("--torch-export", type=Path, metavar="FILE", help="read it with torch.export.load")
    parser.add_argument("--fold", help="(default: the first)")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from ..packaging.network_export import export
    from ..text import printable

    output = args.onnx or args.torch_export
    kind = "onnx" if args.onnx else "torch-export"
    print(printable(export(args.model, output, kind, args.fold, args.checkpoint)))
    print(f"written: {printable(output)}")
    return 0
