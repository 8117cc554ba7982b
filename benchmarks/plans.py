"""Plans for data sets, networks and GPUs, as a table in Markdown. No GPU and no preprocessed data needed.

    python benchmarks/plans.py --raw ../shared/data -d 4 101 --networks SegMamba MedSegMamba

With ``--train`` each plan also trains one iteration, on noise of its shape, on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from nnunetv2_mamba.planning.planners import MambaPlanner

CONFIGURATIONS = ("3d_fullres", "3d_lowres", "2d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="nnUNet_raw")
    parser.add_argument("--work", type=Path, help="nnUNet_preprocessed, for fingerprints and plans (default: dropped)")
    parser.add_argument("-d", type=int, nargs="+", required=True, help="numbers of the data sets")
    parser.add_argument("--networks", nargs="+", required=True)
    parser.add_argument("--gpu-memory", type=float, nargs="+", default=[8, 24, 40, 80], help="GiB")
    parser.add_argument("-np", type=int, default=2, help="processes for the fingerprint")
    parser.add_argument("--train", action="store_true", help="one iteration of each plan: its loss")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["nnUNet_raw"] = str(arguments.raw.resolve())
        os.environ["nnUNet_preprocessed"] = str((arguments.work or Path(scratch)).resolve())
        os.environ["nnUNet_results"] = scratch
        columns = ["data set", "network", "GPU", "configuration", "patch", "batch", "stages", "estimate"]
        columns += ["loss"] if arguments.train else []
        print("|", " | ".join(columns), "|")
        print("|---" * len(columns) + "|")
        for dataset in arguments.d:
            for network in arguments.networks:
                for gpu_memory in arguments.gpu_memory:
                    for row in rows(dataset, network, gpu_memory, arguments.np, arguments.train):
                        print("|", " | ".join(map(str, row)), "|", flush=True)


def rows(dataset: int, network: str, gpu_memory: float, processes: int, train: bool) -> list[tuple]:
    """A row of the table for each configuration."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprint_dataset
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_mamba.memory.estimate import GIB, plan_memory
    from nnunetv2_mamba.planning.planners import PLANNERS

    with contextlib.redirect_stdout(io.StringIO()):
        extract_fingerprint_dataset(dataset, num_processes=processes, clean=False, verbose=False)
        planner = PLANNERS[network](dataset, gpu_memory, plans_name=f"nnUNet{network}{gpu_memory:g}GPlans")
        plans = PlansManager(planner.plan_experiment())
    found = []
    for name in CONFIGURATIONS:
        if name in plans.available_configurations:
            plan = plans.get_configuration(name)
            training, _ = plan_memory(plans, name, planner.dataset_json, planner.trainer.recipe.optimizer)
            size_of_patch, stages = " x ".join(map(str, plan.patch_size)), len(plan.pool_op_kernel_sizes)
            size = f"{training.total / GIB:.1f} GiB"
            loss = (f"{loss_of_a_step(planner, plans.plans, name):.2f}",) if train else ()
            found.append(
                (dataset, network, f"{gpu_memory:g} GB", name, size_of_patch, plan.batch_size, stages, size, *loss)
            )
    return found


def loss_of_a_step(planner: MambaPlanner, plans: dict, configuration: str) -> float:
    """Of the network's own trainer, on noise."""
    import torch
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module  # noqa: N813
    from torch.nn.functional import interpolate

    # the class of the data set, which it would tell from preprocessed files
    with contextlib.redirect_stdout(io.StringIO()), patch.object(module, "infer_dataset_class"):
        document = {**plans, "continue_training": False}
        trainer = planner.trainer(document, configuration, 0, planner.dataset_json, torch.device("cpu"))
        trainer.initialize()
        trainer.network.train()
        plan = trainer.configuration_manager
        images = torch.randn(plan.batch_size, trainer.num_input_channels, *plan.patch_size)
        labels = torch.randint(len(planner.dataset_json["labels"]), (plan.batch_size, 1, *plan.patch_size)).float()
        scales = trainer._get_deep_supervision_scales()
        targets = [interpolate(labels, scale_factor=scale, mode="nearest-exact") for scale in scales]
        return float(trainer.train_step({"data": images, "target": targets})["loss"])


if __name__ == "__main__":
    main()
