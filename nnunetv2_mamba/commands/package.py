"""The verb ``package`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

from .inference_options import add_inference_options, choices_of

HELP = "write a Docker build context of a trained model, to submit it to a challenge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..packaging.platforms import PLATFORMS  # like this file, of the standard library only

    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        metavar="MODEL_FOLDER|ZIP",
        help="TRAINER__PLANS__CONFIGURATION in nnU-Net's results, or a file of nnUNetv2_export_model_to_zip; "
        "predictions of several are averaged",
    )
    parser.add_argument("--for", dest="platform", required=True, choices=tuple(PLATFORMS))
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="made, or empty")
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="(default: all that a model has)")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth", metavar="FILE", help="(default: %(default)s)")
    for platform in PLATFORMS.values():
        for name, keywords in platform.options.items():
            parser.add_argument(f"--{name}", dest=name, **keywords)
    parser.add_argument("--cpu", action="store_true", help="an image without CUDA")
    parser.add_argument(
        "--torch-index", metavar="URL", help="pip's index for PyTorch, for the CUDA version of the platform's driver"
    )
    parser.add_argument("--image", default="nnunetv2-mamba", metavar="NAME", help="of the image (default: %(default)s)")
    choices = parser.add_argument_group("inference, to be changed later in inference.json")
    add_inference_options(choices)
    choices.add_argument(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="per case: gives up models but the first, mirroring, folds, overlap to keep it",
    )


def run(args: argparse.Namespace) -> int:
    from ..packaging.build_context import Request, write_context
    from ..packaging.platforms import PLATFORMS
    from ..text import printable

    given = vars(args)
    options = {name: given[name] for each in PLATFORMS.values() for name in each.options if given[name] is not None}
    chosen = {name: given[name] for name in ("platform", "folds", "torch_index", "image", "calibrated")}
    first, *others = args.models
    request = Request(first, **chosen, options=options, gpu=not args.cpu, choices=choices_of(args), others=others)
    model = write_context(request, args.output)
    folds = ", ".join(model.folds)
    more = f" and {len(others)} more, averaged as {args.average}" if others else ""
    print("Tried: it segments a patch of noise, on the CPU")
    print(printable(f"{model.trainer}, {model.configuration}, fold(s) {folds}{more}: {args.output}"))
    print(printable(f"Next: {args.output / 'test_run.sh'} INPUT OUTPUT"))
    return 0
