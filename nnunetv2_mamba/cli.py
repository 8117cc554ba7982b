"""The command ``nnunetv2_mamba VERB``."""

import argparse
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
from importlib import import_module

from .commands.completion import PrintCompletion
from .processes import Ended, signals_raise
from .text import printable

# Each is a module in commands/, which has _ for -; in the order of the help.
_NAMES = (
    "doctor trainers networks import-weights plan predict evaluate compare calibrate choose-filter benchmark "
    "convert-freesurfer predict-roi package export demo"
)
VERBS = {name: import_module(f".commands.{name.replace('-', '_')}", __package__) for name in _NAMES.split()}
# Their messages are sentences for a user; what else is raised needs its name to be understood.
_SPEAKING = (OSError, ValueError, RuntimeError, ImportError, pickle.UnpicklingError, subprocess.SubprocessError)


def _parser() -> argparse.ArgumentParser:
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    parser = argparse.ArgumentParser(prog="nnunetv2_mamba", description="Mamba networks as an nnU-Net v2 plugin.")
    parser.add_argument("--print-completion", action=PrintCompletion)
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB")
    # Not an argument above: nnU-Net's dependencies install argparse 1.4, which PYTHONPATH puts before Python's own.
    verbs.required = True
    for name, command in VERBS.items():
        command.add_arguments(
            verbs.add_parser(
                name,
                help=command.HELP,
                description="\n".join(textwrap.wrap(command.HELP, 80)),
                epilog="\n  ".join(("examples:", *command.EXAMPLES)),
                formatter_class=argparse.RawDescriptionHelpFormatter,
                parents=[debug],
            )
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 success, 1 failure, 2 wrong usage (raised by argparse), 128 and the
    signal's number where a signal ended it (SIGINT 130, SIGTERM 143), with all that it had started.

    A failure is one line on the standard error, whatever was raised; ``--debug`` puts the traceback before it.
    """
    _open_what_is_closed()
    _escape_what_cannot_be_encoded()
    args = _parser().parse_args(argv)
    try:
        with signals_raise():
            code = VERBS[args.verb].run(args)
        _flush_output()
        return code
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


def _open_what_is_closed() -> None:
    """Where the standard output or error is closed (``>&-``), what is said goes nowhere; the work is done all the same.

    Left closed, its number would go to the next file that is opened, for child processes to write into.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
        if getattr(sys, name) is None:  # as Python leaves it then
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


def _flush_output() -> None:
    """Say here what cannot be said, not while Python ends; a reader who has read enough (``| head``) is no failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _to_nowhere(1)
    except OSError:
        _to_nowhere(1)
        raise


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _escape_what_cannot_be_encoded() -> None:
    """A name that the terminal's encoding lacks must not end a command that has done its work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
