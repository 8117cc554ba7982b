"""The verb ``plan`` of the command ``nnunetv2_mamba``."""

import argparse

HELP = "plan a data set for a network and a GPU's memory, and preprocess it"
EXAMPLES = (
    "nnunetv2_mamba plan -d 4 --network SegMamba -c 3d_fullres",
    "nnunetv2_mamba plan -d 4 --network MedSegMamba --gpu-memory 24 --option d_state=32",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=int, required=True, metavar="ID", help="number of the data set")
    parser.add_argument("--network", required=True, help="SegMamba, MedSegMamba, ... (nnunetv2_mamba networks)")
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="of the GPU to train on: 8 (default), 24, 40, 80"
    )
    parser.add_argument(
        "--match", metavar="PLANS", help="instead: as much memory as these plans take, such as nnUNetResEncUNetLPlans"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the network, such as scan=hilbert, for training and prediction; may be repeated",
    )
    parser.add_argument(
        "--plans-name", metavar="PLANS", help="name of the plans (default: made of network, options, memory)"
    )
    parser.add_argument("-c", nargs="+", metavar="CONFIGURATION", help="preprocess only these (default: all)")
    parser.add_argument("-np", type=int, metavar="N", help="processes for check, fingerprint and preprocessing")
    parser.add_argument(
        "--no_integrity_check",
        action="store_true",
        help="do not read and check every image and label map first (nnU-Net's --verify_dataset_integrity); "
        "dataset.json and the files' names and number are checked all the same",
    )


def run(args: argparse.Namespace) -> int:
    from ..planning.command import plan
    from ..planning.network_options import parse_options

    plan(
        args.d,
        args.network,
        args.gpu_memory,
        args.match,
        args.c,
        args.np,
        not args.no_integrity_check,
        parse_options(args.option),
        args.plans_name,
    )
    return 0
