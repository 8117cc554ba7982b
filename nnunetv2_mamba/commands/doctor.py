"""``nnunetv2_mamba doctor``."""

import argparse

HELP = "check this installation; exit code 1 and a remedy where it is broken"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> int:
    from ..doctor import examine

    return examine()
