"""The verb ``trainers`` of the command ``nnunetv2_mamba``."""

import argparse

from .plan_arguments import add_plan_arguments, costs_of

HELP = "list the trainers that nnU-Net finds, ours and others', with what they cost on a plan"
EXAMPLES = (
    "nnunetv2_mamba trainers SegMamba",
    "nnunetv2_mamba trainers '*NoMamba' -d 4 -p nnUNetPlans -c 3d_fullres --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="NAME", help="part of a name, or a pattern such as '*NoMamba'"
    )
    add_plan_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(args: argparse.Namespace) -> int:
    import json
    import sys
    from dataclasses import asdict

    from ..catalogue.display import trainer_table
    from ..catalogue.trainers import list_trainers
    from ..text import printable

    entries, problems = list_trainers(args.pattern, costs := costs_of(args))
    if args.json:
        print(json.dumps({"trainers": [asdict(entry) for entry in entries], "problems": problems}, indent=2))
    else:
        print("\n".join(trainer_table(entries, costs is not None)))
        for problem in problems:
            print(f"not listed: {printable(problem)}", file=sys.stderr)
    if not entries:
        raise ValueError(f"nnU-Net finds no trainer {args.pattern!r} (nnunetv2_mamba trainers lists all)")
    return 0
