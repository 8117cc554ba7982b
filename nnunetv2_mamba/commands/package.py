"""The verb ``package`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

HELP = "write a Docker build context of a trained model, to submit it to a challenge"
EXAMPLES = ("nnunetv2_mamba package MODEL_FOLDER --for grand-challenge -o container",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..packaging.inference_settings import PRECISIONS
    from ..packaging.platforms import PLATFORMS  # like this file, of the standard library only

    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL_FOLDER|ZIP",
        help="TRAINER__PLANS__CONFIGURATION in nnU-Net's results, or a file of nnUNetv2_export_model_to_zip",
    )
    parser.add_argument("--for", dest="platform", required=True, choices=tuple(PLATFORMS))
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="DIR", help="made, or empty")
    parser.add_argument("--folds", nargs="+", metavar="FOLD", help="(default: all that the model has)")
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
    # the first as nnU-Net spells them
    choices.add_argument("--disable_tta", "--disable-tta", action="store_true", help="no mirroring")
    choices.add_argument(
        "-step_size", "--step-size", type=float, default=0.5, metavar="SHARE", help="(default: %(default)s)"
    )
    choices.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="default",
        help="of the network (default: nnU-Net's, fp16 on a GPU and fp32 else)",
    )
    choices.add_argument(
        "--time-budget", type=float, metavar="SECONDS", help="per case: gives up mirroring, folds, overlap to keep it"
    )


def run(args: argparse.Namespace) -> int:
    from ..packaging.build_context import Request, write_context
    from ..packaging.inference_settings import Choices
    from ..packaging.platforms import PLATFORMS
    from ..text import printable

    choices = Choices(
        checkpoint=args.checkpoint,
        mirroring=not args.disable_tta,
        step_size=args.step_size,
        precision=args.precision,
        time_budget=args.time_budget,
    )
    given = vars(args)
    options = {name: given[name] for each in PLATFORMS.values() for name in each.options if given[name] is not None}
    chosen = {name: given[name] for name in ("platform", "folds", "torch_index", "image")}
    request = Request(args.model, **chosen, options=options, gpu=not args.cpu, choices=choices)
    model = write_context(request, args.output)
    folds = ", ".join(model.folds)
    print("Tried: it segments a patch of noise, on the CPU")
    print(printable(f"{model.trainer}, {model.configuration}, fold(s) {folds}: {args.output}"))
    print(printable(f"Next: {args.output / 'test_run.sh'} INPUT OUTPUT"))
    return 0
