"""Run as a script, once per process: train with every teacher under DDP on two processes, print a digest as JSON.

Arguments: rank, file to meet at, dataset.json, plans file, folder for the results (one line of JSON per process).
"""

import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mamba import trainers

SETTINGS = (
    "num_epochs=2, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1, distillation_warmup_share=0.1, "
    "distillation_ramp_share=0.1, uncertainty_weighting=true"
)

rank, meeting_point, dataset_json, plans, output = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(int(rank))
os.environ["NNUNETV2_MAMBA_SETTINGS"] = SETTINGS


def make(name):
    """Before the processes meet: nnU-Net's constructor takes CUDA for granted afterwards."""
    return getattr(trainers, name)(
        plans={**json.loads(Path(plans).read_text()), "continue_training": False},
        configuration="3d_fullres",
        fold=0,
        dataset_json=json.loads(Path(dataset_json).read_text()),
        device=torch.device("cpu"),
    )


def on_cpu(network, device_ids):
    return DistributedDataParallel(network)


def digest(trainer):
    network = trainer.bare_network()
    return {
        "without_gradient": [name for name, value in network.named_parameters() if value.grad is None],
        "network": [value.double().sum().item() for value in network.state_dict().values()],
        "teacher": [value.double().sum().item() for value in trainer.ema.state_dict().values()] if trainer.ema else [],
        "learned": trainer.loss.uncertainty.module.log_variances.tolist(),
        "brake": trainer.loss.brake.state_dict()["dice"].nan_to_num(-1).tolist(),
        "history": trainer.history,
    }


names = ("nnUNetTrainerMSDKMamba", "nnUNetTrainerMSDKMambaFusedTeacher", "nnUNetTrainerMSDKMambaEMATeacher")
made = {name: make(name) for name in names}
dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=int(rank), world_size=2)
results = {}
with patch("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.DDP", on_cpu):
    for name, trainer in made.items():
        trainer.is_ddp, trainer.local_rank = True, int(rank)
        trainer.run_training()
        results[name] = digest(trainer)
dist.destroy_process_group()
(Path(output) / f"{rank}.json").write_text(json.dumps(results))
