"""The verb ``convert-freesurfer`` of the command ``nnunetv2_mamba``."""

import argparse
import re
from pathlib import Path

HELP = "turn FreeSurfer subjects into an nnU-Net data set with MedSegMamba's structures"
EXAMPLES = ("nnunetv2_mamba convert-freesurfer SUBJECTS_DIR -d 101 --task hippocampus",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subjects_dir", type=Path, metavar="SUBJECTS_DIR", help="folder of FreeSurfer subjects")
    parser.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="of the new data set")
    parser.add_argument("--name", help="of the new data set (default: Subcortical or HippocampalSubfields)")
    parser.add_argument(
        "--task",
        choices=("subcortical", "hippocampus"),
        default="subcortical",
        help="31 structures of aseg.mgz, or 24 subfields in a box around the hippocampi (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        default="brainmask.mgz",
        metavar="FILE",
        help="image in mri/ (default: %(default)s, intensities normalised and skull stripped)",
    )
    parser.add_argument(
        "--subfields-pattern",
        metavar="PATTERN",
        help="of the subfield files in mri/, after lh. and rh. (default: hippoAmygLabels*.FS60.FSvoxelSpace.mgz)",
    )
    parser.add_argument(
        "--subjects", nargs="+", metavar="NAME", help="only these (default: all, without fsaverage templates)"
    )
    parser.add_argument("--strict", action="store_true", help="a structure that a subject lacks is an error")
    parser.add_argument("-np", dest="processes", type=int, metavar="N", help="processes (default: nnU-Net's)")


def run(args: argparse.Namespace) -> int:
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    from ..freesurfer.convert import convert
    from ..freesurfer.structures import TASKS
    from ..freesurfer.subjects import SUBFIELDS_PATTERN
    from ..nnunet_folders import nnunet_folder

    if not 1 <= args.dataset_id <= 999:
        raise ValueError(f"-d must be from 1 to 999, got {args.dataset_id}")
    if args.processes is not None and args.processes < 1:
        raise ValueError(f"-np must be at least 1, got {args.processes}")
    if args.name and not re.fullmatch(r"[\w.-]+", args.name):
        raise ValueError(f"--name must be of letters, digits, '_', '-' and '.', got {args.name!r}")
    raw = nnunet_folder("nnUNet_raw")
    name = f"Dataset{args.dataset_id:03d}_{args.name or TASKS[args.task].dataset_name}"
    others = [other for other in find_candidate_datasets(args.dataset_id) if other != name]
    if others:
        raise ValueError(f"the id {args.dataset_id} is taken by {', '.join(others)}; choose another -d")
    dataset = raw / name
    convert(
        args.subjects_dir,
        dataset,
        args.task,
        args.image,
        args.subfields_pattern or SUBFIELDS_PATTERN,
        args.subjects,
        args.strict,
        args.processes or default_num_processes,
    )
    print(f"wrote {dataset}")
    return 0
