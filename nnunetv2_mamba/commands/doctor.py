"""The verb ``doctor`` of the command ``nnunetv2_mamba``."""

import argparse

HELP = "check this installation; exit code 1 and a remedy where it is broken"
EXAMPLES = ("nnunetv2_mamba doctor",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb takes none."""


def run(args: argparse.Namespace) -> int:
    from ..doctor import examine

    return examine()
