"""Completion in the shell: ``nnunetv2_mamba --print-completion SHELL`` writes a script that needs no Python."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """Print the script for a shell, made by shtab, and end."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(
            *args, choices=SHELLS, metavar="SHELL", help=f"print a script for {', '.join(SHELLS)}", **kwargs
        )

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("completion needs shtab: pip install nnunetv2-mamba[completion]")
        _complete_files(parser, shtab.FILE)
        print(shtab.complete(parser, shell))
        parser.exit()


def _complete_files(parser: argparse.ArgumentParser, files: dict[str, str]) -> None:
    """Let every argument that is a path be completed by the names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _complete_files(verb, files)
        elif action.type is Path:
            action.complete = files  # type: ignore[attr-defined]  (what shtab reads)
