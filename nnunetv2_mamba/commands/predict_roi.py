"""The verb ``predict-roi`` of the command ``nnunetv2_mamba``."""

import argparse
import math
import sys
from pathlib import Path

from ..text import printable
from .inference_options import add_device_option, device_of

HELP = "predict in two stages: one model finds a region, a second one segments a box around it"
EXAMPLES = ("nnunetv2_mamba predict-roi -i IMAGES -o OUT --stage1 FINDER_MODEL --stage2 BOX_MODEL --margin 8",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", dest="input", type=Path, required=True, metavar="IN", help="folder of images")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT", help="folder for segmentations")
    for option, what in (("--stage1", "finds the region"), ("--stage2", "segments the box")):
        parser.add_argument(
            option, type=Path, required=True, metavar="MODEL_FOLDER", help=f"nnU-Net's folder of the model that {what}"
        )
    parser.add_argument(
        "--stage1-labels",
        nargs="+",
        default=["Left-Hippocampus", "Right-Hippocampus"],
        metavar="LABEL",
        help="structures that make up the region, names or numbers in stage one's dataset.json (default: %(default)s)",
    )
    box = parser.add_mutually_exclusive_group()
    box.add_argument(
        "--box",
        nargs=3,
        type=float,
        metavar=("D", "H", "W"),
        help="edges of the box in mm, in the order of nnU-Net's axes "
        "(default: the boxes or else the patch that stage two was trained with)",
    )
    box.add_argument("--margin", type=float, metavar="MM", help="a box with this margin around the region instead")
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="of both models (default: all there are)")
    parser.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", metavar="FILE")
    parser.add_argument(
        "-step_size",
        "--step-size",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="stride of the sliding window as a share of the patch: 16 of 96 voxels are 0.1667 (default: %(default)s)",
    )
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring")
    parser.add_argument("--plain-labels", action="store_true", help="stage two's labels, not FreeSurfer's ids")
    parser.add_argument("--continue_prediction", action="store_true", help="leave cases out that OUT has already")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    from ..freesurfer.folder_prediction import predict_cases
    from ..freesurfer.two_stage import Stage, TwoStage

    if not 0 < args.step_size <= 1:
        raise ValueError(f"--step-size must be above 0 and at most 1, got {args.step_size:g}")
    if args.box is not None and not all(0 < edge < math.inf for edge in args.box):
        raise ValueError("--box must be three lengths above 0")
    if args.margin is not None and not 0 <= args.margin < math.inf:
        raise ValueError(f"--margin must not be negative, got {args.margin:g}")
    options = {
        "tile_step_size": args.step_size,
        "use_mirroring": not args.disable_tta,
        "device": torch.device(device_of(args)),
    }
    models = TwoStage(
        Stage.load(args.stage1, args.folds, args.checkpoint, **options),
        Stage.load(args.stage2, args.folds, args.checkpoint, **options),
        args.stage1_labels,
        args.box,
        args.margin,
        not args.plain_labels,
    )
    failed = predict_cases(models, args.input, args.output, overwrite=not args.continue_prediction)
    if failed:
        names = printable(", ".join(failed))
        print(f"nnunetv2_mamba predict-roi: {len(failed)} cases failed: {names}", file=sys.stderr)
    return 1 if failed else 0
