"""Arguments that say how a model is run, alike in several of the verbs ``predict``, ``predict-roi`` and ``package``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..packaging.inference_settings import Choices


def add_inference_options(parser: argparse._ActionsContainer) -> None:
    from ..packaging.inference_settings import AVERAGES, PRECISIONS  # imports nothing heavy

    # the first as nnU-Net spells them
    parser.add_argument("--disable_tta", "--disable-tta", action="store_true", help="no mirroring")
    parser.add_argument(
        "-step_size", "--step-size", type=float, default=0.5, metavar="SHARE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="default",
        help="of the network (default: nnU-Net's, fp16 on a GPU and fp32 else)",
    )
    parser.add_argument(
        "--average",
        choices=AVERAGES,
        default=AVERAGES[0],
        help="of several models (default: %(default)s, as nnUNetv2_ensemble)",
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="divide each model's logits by the temperature that nnunetv2_mamba calibrate wrote beside its folds",
    )
    parser.add_argument(
        "--component-filter",
        type=Path,
        metavar="FILE",
        help="of nnunetv2_mamba choose-filter: components of the segmentations that are removed",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="(default: cuda where there is one, else cpu)")


def device_of(args: argparse.Namespace) -> str:
    """The device that was asked for, or the best one.

    Raises:
        ValueError: for one that PyTorch does not have here, which would else fail in every case.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if args.device is None:
        return "cuda" if there["cuda"] else "cpu"
    if not there[args.device]:
        raise ValueError(f"-device {args.device}: PyTorch sees no such device here; give -device cpu")
    return args.device


def choices_of(args: argparse.Namespace) -> Choices:
    """Make the choices of the arguments above and, where the verb has them, of ``checkpoint`` and ``time_budget``.

    Raises:
        OSError, ValueError: naming what is out of range, or the file that is no filter.
    """
    from ..evaluation.component_rules import ComponentFilter
    from ..packaging.inference_settings import Choices

    return Choices(
        checkpoint=args.checkpoint,
        mirroring=not args.disable_tta,
        step_size=args.step_size,
        precision=args.precision,
        time_budget=getattr(args, "time_budget", None),
        average=args.average,
        component_filter=ComponentFilter.read(args.component_filter) if args.component_filter else ComponentFilter(),
    )
