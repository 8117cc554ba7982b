"""Plans of a small MedSegMamba for Dataset101_SubcorticalSim, which a CPU can train until it finds the structures.

    python benchmarks/subcortical/plan.py -d 101

nnUNet_raw must hold the data set; nnUNet_preprocessed gets the plans and the data. Heads are resampled to 2 mm, so that
a patch holds most of the structures and the network sees which side is which. Then

    nnunetv2_mamba benchmark benchmarks/subcortical/sweep.toml -d 101 -o FOLDER

trains, MedSegMamba first.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    plan_experiment_dataset,
    preprocess,
)
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.files import read_json_object, write_json
from nnunetv2_mamba.planning.planners import planner_of

PLANS = "nnUNetMedSegMambaSmallPlans"
PATCH = [56, 64, 48]
WIDTHS = {"features_per_stage": [8, 16, 32, 64], "bottleneck_channels": 64, "n_bottleneck_blocks": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, required=True, help="number of the data set")
    parser.add_argument("-np", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    extract_fingerprints([arguments.d], num_processes=arguments.np)
    plan_experiment_dataset(
        arguments.d,
        planner_of(NETWORKS["MedSegMamba"]),
        overwrite_target_spacing=(2, 2, 2),
        overwrite_plans_name=PLANS,
    )
    folder = Path(os.environ["nnUNet_preprocessed"]) / maybe_convert_to_dataset_name(arguments.d)
    file = folder / f"{PLANS}.json"
    plans = read_json_object(file)
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = PATCH
    configuration["architecture"]["arch_kwargs"].update(WIDTHS)
    write_json(file, {**plans, "configurations": {"3d_fullres": configuration}}, indent=4)
    preprocess([arguments.d], PLANS, configurations=("3d_fullres",), num_processes=(arguments.np,))


if __name__ == "__main__":
    main()
