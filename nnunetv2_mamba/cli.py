"""The command ``nnunetv2_mamba VERB``."""

import argparse
import pickle
import subprocess
import sys

from .commands import (
    benchmark,
    compare,
    convert_freesurfer,
    demo,
    doctor,
    evaluate,
    export,
    import_weights,
    package,
    plan,
    predict_roi,
)

VERBS = {
    "doctor": doctor,
    "import-weights": import_weights,
    "plan": plan,
    "evaluate": evaluate,
    "compare": compare,
    "benchmark": benchmark,
    "convert-freesurfer": convert_freesurfer,
    "predict-roi": predict_roi,
    "package": package,
    "export": export,
    "demo": demo,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnunetv2_mamba", description="Mamba networks as an nnU-Net v2 plugin.")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB")
    # Not an argument above: nnU-Net's dependencies install argparse 1.4, which PYTHONPATH puts before Python's own.
    verbs.required = True
    for name, command in VERBS.items():
        command.add_arguments(verbs.add_parser(name, help=command.HELP, description=command.HELP))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 success, 1 failure, 2 wrong usage (raised by argparse)."""
    args = _parser().parse_args(argv)
    try:
        return VERBS[args.verb].run(args)
    except (OSError, ValueError, pickle.UnpicklingError, subprocess.SubprocessError) as error:
        print(f"nnunetv2_mamba {args.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
