"""Plans of small networks, as large and as costly as each other, for trainings that a CPU can finish.

    python benchmarks/small_networks/plan.py -d 4

nnUNet_raw must hold the data set; nnUNet_preprocessed gets the plans and the data. Then

    nnunetv2_mamba benchmark benchmarks/small_networks/sweep.toml -d 4 -o FOLDER

trains. Our networks are planned by ``nnunetv2_mamba plan`` with their widths as options; nnU-Net's own by its planners,
and made small in the file, as nnU-Net's documentation of plans files has it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunetv2_mamba.files import read_json_object, write_json
from nnunetv2_mamba.planning.command import plan

PATCH = [32, 48, 32]  # half of nnU-Net's 40 x 56 x 40, which would hold the whole of every image
# Widths: about 0.30 million parameters and 1.0 GFLOP of a patch for each, but GroupNorm with 8 groups lets MedSegMamba
# be no cheaper than this: it takes twice as many.
OURS = {
    "SegMamba": {"features_per_stage": [6, 12, 24, 48]},
    "MSDKMamba": {"features_per_stage": [6, 16, 16, 48]},
    "UMambaBot": {"features_per_stage": [4, 12, 20, 66]},
    "UMamba2": {"features_per_stage": [6, 16, 20, 44], "n_blocks_per_stage": [1, 2, 2, 2]},
    "MedSegMamba": {"features_per_stage": [8, 8, 16, 32], "bottleneck_channels": 64, "n_bottleneck_blocks": 2},
}
# One path each but for bidirectional (2), six_axes (6) and serpentine (8); SegMamba's own are three.
SCANS = ("raster", "bidirectional", "six_axes", "serpentine", "morton", "hilbert", "random")
NNUNETS = {
    "nnUNetSmallPlans": ("ExperimentPlanner", "nnUNetPlans", {"features_per_stage": [6, 16, 32, 52]}),
    "nnUNetResEncUNetSmallPlans": (
        "nnUNetPlannerResEncM",
        "nnUNetResEncUNetMPlans",
        {"features_per_stage": [6, 16, 20, 44], "n_blocks_per_stage": [1, 2, 2, 2]},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", type=int, required=True, help="number of the data set")
    parser.add_argument("-np", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    folder = Path(os.environ["nnUNet_preprocessed"]) / maybe_convert_to_dataset_name(arguments.d)
    ours = {f"nnUNet{network}SmallPlans": (network, options) for network, options in OURS.items()}
    for scan in SCANS:
        name = f"nnUNetSegMambaSmallScan{scan.title().replace('_', '')}Plans"
        ours[name] = ("SegMamba", {**OURS["SegMamba"], "scan": scan})
    for name, (network, options) in ours.items():
        plan(
            arguments.d,
            network,
            configurations=["3d_fullres"],
            processes=arguments.np,
            integrity_check=False,
            options=options,
            plans_name=name,
        )
        make_small(folder / f"{name}.json", folder / f"{name}.json", {})
    for name, (planner, planned, widths) in NNUNETS.items():
        plan_experiments([arguments.d], planner)
        make_small(folder / f"{planned}.json", folder / f"{name}.json", widths)


def make_small(planned: Path, file: Path, widths: dict) -> None:
    """Write the plans' 3d_fullres with other widths and the small patch."""
    plans = read_json_object(planned)
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = PATCH
    configuration["architecture"]["arch_kwargs"].update(widths)
    write_json(file, {**plans, "plans_name": file.stem, "configurations": {"3d_fullres": configuration}}, indent=4)


if __name__ == "__main__":
    main()
