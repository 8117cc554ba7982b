"""Arguments of verbs that tell costs on a plan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalogue.cost import Costs


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p", dest="plans", metavar="PLANS", help="tell the costs on these plans: a file or, with -d, a name"
    )
    parser.add_argument("-d", dest="dataset_id", type=int, metavar="ID", help="number of the data set of the plans")
    parser.add_argument(
        "-c", dest="configuration", default="3d_fullres", metavar="CONFIGURATION", help="(default: %(default)s)"
    )


def costs_of(args: argparse.Namespace) -> Costs | None:
    """What counts costs on the plan that was given; None where none was."""
    from ..catalogue.cost import Costs
    from ..catalogue.plan import read_plan

    if args.plans is None:
        if args.dataset_id is not None:
            raise ValueError("-d says of which data set the plans are; give their name with -p")
        return None
    return Costs(read_plan(args.plans, args.configuration, args.dataset_id))
