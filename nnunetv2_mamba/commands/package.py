"""The verb ``package`` of the command ``nnunetv2_mamba``."""

import argparse
from pathlib import Path

from .inference_options import add_inference_options, choices_of

HELP = "write a Docker build context of a trained model, to submit it to a challenge"
EXAMPLES = (
    "nnunetv2_mamba package MODEL_FOLDER --for grand-challenge -o container --interface brain=output",
    "nnunetv2_mamba package MODEL_A MODEL_B --for flare -o container --cpu",
)


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
    parser.add_argument(
        "--base", metavar="IMAGE", help="to start from, as NAME:TAG@sha256:DIGEST (default: Docker Hub's python)"
    )
    parser.add_argument(
        "--no-hashes",
        dest="hashes",
        action="store_false",
        help="pin versions only, and ask no index (default: hashes of all files, where uv is installed)",
    )
    parser.add_argument(
        "--check",
        nargs="?",
        type=Path,
        const=True,
        metavar="INPUT",
        help="build it by Docker or podman and run test_run.sh, on a folder as the platform gives it or on a case of "
        "noise; time and memory are written into the model card",
    )
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
    from ..packaging.container_check import check_container, find_engine
    from ..packaging.hashed_requirements import find_uv
    from ..packaging.model_card import CARD_TEXT
    from ..packaging.platforms import PLATFORMS
    from ..text import printable

    given = vars(args)
    options = {name: given[name] for each in PLATFORMS.values() for name in each.options if given[name] is not None}
    chosen = {name: given[name] for name in ("platform", "folds", "torch_index", "image", "base", "calibrated")}
    engine = find_engine() if args.check else None
    check_input = None if args.check is True else args.check
    if check_input is not None and not check_input.is_dir():
        raise NotADirectoryError(f"--check {check_input} is no folder: give one as the platform gives it, or none")
    hashes = args.hashes and find_uv() is not None
    first, *others = args.models
    request = Request(
        first,
        **chosen,
        options=options,
        gpu=not args.cpu,
        hashes=hashes,
        choices=choices_of(args),
        others=others,
    )
    model = write_context(request, args.output)
    folds = ", ".join(model.folds)
    more = f" and {len(others)} more, averaged as {args.average}" if others else ""
    print("Tried: it segments a patch of noise, on the CPU")
    print(printable(f"{model.trainer}, {model.configuration}, fold(s) {folds}{more}: {args.output}"))
    if args.hashes and not hashes:
        print("NOTE: requirements.txt has versions without hashes: for those, pip install uv and package again")
    if engine is None:
        print(printable(f"Next: {args.output}/test_run.sh INPUT OUTPUT"))
        return 0
    measured = check_container(args.output, engine, check_input)
    print(printable(f"Checked by {measured['engine']}: {len(measured['cases'])} case(s), see {CARD_TEXT}"))
    return 0
