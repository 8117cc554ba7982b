"""The verb ``networks`` of the command ``nnunetv2_mamba``."""

import argparse

from .plan_arguments import add_plan_arguments, costs_of

HELP = "list the networks, or show one's arguments, trainers and costs on a plan"
EXAMPLES = (
    "nnunetv2_mamba networks",
    "nnunetv2_mamba networks SegMamba -d 4 -p nnUNetSegMambaPlans",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="SegMamba, MedSegMamba, ... (default: a list of all)")
    add_plan_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document")


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from ..catalogue.display import network_table, network_text
    from ..catalogue.networks import NETWORKS, describe, network_of

    if args.name is None and args.plans is not None:
        raise ValueError("-p needs the NAME of a network (nnunetv2_mamba trainers -p PLANS has all of them)")
    costs = costs_of(args)
    networks = list(NETWORKS.values()) if args.name is None else [network_of(args.name)]
    if args.json:
        print(json.dumps([describe(network, costs) for network in networks], indent=2, default=asdict))
    elif args.name is None:
        print("\n".join(network_table(networks)))
    else:
        print("\n".join(network_text(describe(networks[0], costs))))
    return 0
