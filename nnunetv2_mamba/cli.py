"""The command ``nnunetv2_mamba VERB``: parses, calls, prints. What a verb needs is imported when it runs."""

import argparse
import pickle
import subprocess
import sys
from pathlib import Path


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import examine

    return examine()


def _import_weights(args: argparse.Namespace) -> int:
    from .architectures.reference_weights import convert

    print(convert(args.file, args.output, tom_residual=args.tom_residual))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo.pipeline import run

    return run(args.output)


def _plan(args: argparse.Namespace) -> int:
    from .planning.command import plan

    plan(args.d, args.network, args.gpu_memory, args.match, args.c, args.np)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnunetv2_mamba", description="Mamba networks as an nnU-Net v2 plugin.")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB")
    # Not an argument above: nnU-Net's dependencies install argparse 1.4, which PYTHONPATH puts before Python's own.
    verbs.required = True

    doctor = verbs.add_parser("doctor", help="check this installation; exit code 1 and a remedy where it is broken")
    doctor.set_defaults(call=_doctor)

    weights = verbs.add_parser("import-weights", help="turn published weights into a file for -pretrained_weights")
    weights.add_argument("file", type=Path, metavar="FILE", help="checkpoint of SegMamba, MedSegMamba or U-Mamba")
    weights.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT.pth", help="file to write")
    weights.add_argument(
        "--no-tom-residual",
        dest="tom_residual",
        action="store_false",
        help="SegMamba weights from before the residual connection around the ToM block, which no key reveals",
    )
    weights.set_defaults(call=_import_weights)

    plan = verbs.add_parser("plan", help="plan a data set for a network and a GPU's memory, and preprocess it")
    plan.add_argument("-d", type=int, required=True, metavar="ID", help="number of the data set")
    plan.add_argument("--network", required=True, metavar="NAME", help="SegMamba, MedSegMamba, ... (docs/planning.md)")
    plan.add_argument("--gpu-memory", type=float, metavar="GIB", help="of the GPU to train on: 8 (default), 24, 40, 80")
    plan.add_argument(
        "--match", metavar="PLANS", help="instead: as much memory as these plans take, such as nnUNetResEncUNetLPlans"
    )
    plan.add_argument("-c", nargs="+", metavar="CONFIGURATION", help="preprocess only these (default: all)")
    plan.add_argument("-np", type=int, metavar="N", help="processes for fingerprint and preprocessing")
    plan.set_defaults(call=_plan)

    demo = verbs.add_parser("demo", help="train, predict and evaluate on a synthetic data set, in minutes")
    demo.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("nnunetv2_mamba_demo"),
        metavar="FOLDER",
        help="folder for everything the demo writes (default: %(default)s)",
    )
    demo.set_defaults(call=_demo)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 success, 1 failure, 2 wrong usage (raised by argparse)."""
    args = _parser().parse_args(argv)
    try:
        return args.call(args)
    except (OSError, ValueError, pickle.UnpicklingError, subprocess.SubprocessError) as error:
        print(f"nnunetv2_mamba {args.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
