"""The command ``nnunetv2_mamba VERB``."""

import argparse
import pickle
import subprocess
import sys
import traceback

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
from .processes import Ended, signals_raise
from .text import printable

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


# Their messages are sentences for a user; what else is raised needs its name to be understood.
_SPEAKING = (OSError, ValueError, RuntimeError, ImportError, pickle.UnpicklingError, subprocess.SubprocessError)


def _parser() -> argparse.ArgumentParser:
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    parser = argparse.ArgumentParser(prog="nnunetv2_mamba", description="Mamba networks as an nnU-Net v2 plugin.")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB")
    # Not an argument above: nnU-Net's dependencies install argparse 1.4, which PYTHONPATH puts before Python's own.
    verbs.required = True
    for name, command in VERBS.items():
        command.add_arguments(verbs.add_parser(name, help=command.HELP, description=command.HELP, parents=[debug]))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 success, 1 failure, 2 wrong usage (raised by argparse), 128 and the
    signal's number where a signal ended it (SIGINT 130, SIGTERM 143), with all that it had started.

    A failure is one line on the standard error, whatever was raised; ``--debug`` puts the traceback before it.
    """
    _escape_what_cannot_be_encoded()
    args = _parser().parse_args(argv)
    try:
        with signals_raise():
            return VERBS[args.verb].run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Ended as end:
        print(f"ended by {end.signal}", file=sys.stderr)
        return end.code
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(f"nnunetv2_mamba {args.verb}: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))
    if isinstance(error, _SPEAKING) and text:
        return text
    return f"{type(error).__name__}: {text or 'no message'} (--debug shows where)"


def _escape_what_cannot_be_encoded() -> None:
    """A name that the terminal's encoding lacks must not end a command that has done its work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
