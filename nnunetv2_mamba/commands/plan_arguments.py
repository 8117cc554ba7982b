"""Arguments of verbs that tell costs on a plan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalogue.cost import Costs

_CONFIGURATION = "3d_fullres"


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p", dest="plans", metavar="PLANS", help="tell the costs on these plans: a file or, with -d, a name"
    )
    parser.add_argument("-d", dest="dataset_id", type=int, metavar="ID", help="number of the data set of the plans")
    parser.add_argument(
        "-c", dest="configuration", metavar="CONFIGURATION", help=f"of the plans (default: {_CONFIGURATION})"
    )


def costs_of(args: argparse.Namespace) -> Costs | None:
    """What counts costs on the plan that was given; None where none was."""
    from ..catalogue.cost import Costs
    from ..catalogue.plan import read_plan

    if args.plans is None:
        if args.dataset_id is not None:
            raise ValueError("-d says of which data set the plans are; give their name with -p")
        if args.configuration is not None:
            raise ValueError("-c says of what in the plans the costs are; give the plans with -p")
        return None
    return Costs(read_plan(args.plans, args.configuration or _CONFIGURATION, args.dataset_id))
