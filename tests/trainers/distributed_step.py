"""One training step of every network on given samples; run as a script, one of two processes of a DDP training.

Arguments of the script: rank, group of networks, file to meet at, dataset.json, folder of the plans, folder for the
results.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mamba import trainers
from nnunetv2_mamba.architectures import registry
from nnunetv2_mamba.nnunet.names import LATEST_CHECKPOINT
from nnunetv2_mamba.nnunet.preemption import TerminationRequest

# One of every class of networks, and one that accumulates the gradients of two batches; apart, those of MONAI, and all
# other trainers but MedSegMambaPaper's, which refuse several GPUs: twins, other mixers and recipes.
_EACH = {name: network for name, network in registry.NETWORKS.items() if name == network.network_class.__name__}
GROUPS = {
    "ours": [*(name for name, network in _EACH.items() if network.page != "monai"), "UMamba2Paper"],
    "of_monai": [name for name, network in _EACH.items() if network.page == "monai"],
}
_NAMES = {
    name.removeprefix("nnUNetTrainer")
    for name in trainers.FULL_LENGTH
    if not issubclass(getattr(trainers, name), trainers.nnUNetTrainerMedSegMambaPaper)
}
GROUPS["others"] = sorted(_NAMES.difference(*GROUPS.values()))
CONFIGURATIONS = ("2d", "3d_fullres")  # Dice over the batch and over each sample


def make_trainers(group: str, dataset_json: Path, plans: Path) -> dict[str, trainers.nnUNetTrainerSegMamba]:
    made = {}
    for name in GROUPS[group]:
        trainer = getattr(trainers, f"nnUNetTrainer{name}")
        for configuration in CONFIGURATIONS:
            document = json.loads((plans / f"tiny{trainer.network_class.__name__}Plans.json").read_text())
            made[f"{name} {configuration}"] = trainer(
                plans={**document, "continue_training": False},
                configuration=configuration,
                fold=0,
                dataset_json=json.loads(dataset_json.read_text()),
                device=torch.device("cpu"),
            )
    return made


def step(trainer: trainers.nnUNetTrainerSegMamba, samples: slice) -> dict[str, object]:
    """A step on ``samples`` of every batch, of two: the loss, the clipped gradients, the new weights."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # biases before a norm have a gradient of 0, in fp32 mere rounding
    try:
        trainer.initialize()
    finally:
        torch.set_default_dtype(torch.float32)
    network = trainer.bare_network().eval()  # no dropout
    batches = [batch(trainer, samples) for _ in range(getattr(trainer.recipe, "batches_per_step", 1))]
    trainer.dataloader_train = iter(batches[1:])
    result = trainer.train_step(batches[0])
    parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.grad is not None}
    return {
        "loss": float(result["loss"]),
        "gradients": {name: parameter.grad for name, parameter in parameters.items()},
        "weights": {name: parameter.detach() for name, parameter in parameters.items()},
    }


def batch(trainer: trainers.nnUNetTrainerSegMamba, samples: slice) -> dict[str, object]:
    """The ``samples`` of the next batch of two that is drawn."""
    patch_size = trainer.configuration_manager.patch_size
    images = torch.randn(2, trainer.num_input_channels, *patch_size, dtype=torch.float64)
    labels = (images[:, :1] > 0.8).long() + (images[:, 1:2] > 0.3)
    labels[1] = labels[1].clamp(max=1)  # the second sample lacks a class
    targets = [
        torch.nn.functional.interpolate(labels.double(), scale_factor=scale, mode="nearest-exact")[samples]
        for scale in trainer._get_deep_supervision_scales() or [1.0]
    ]
    return {"data": images[samples], "target": targets if trainer.enable_deep_supervision else targets[0]}


def steps_with_and_without_nan(trainer: trainers.nnUNetTrainerSegMamba, rank: int) -> dict[str, object]:
    """After a step for which an image of the second process alone holds NaN: how many were skipped, the weights after
    one more step, and the log, which the first process writes."""
    trainer.grad_scaler = torch.amp.GradScaler("cpu")  # as in fp16, where a gradient alone may be beyond its range
    bad = batch(trainer, slice(rank, rank + 1))
    if rank == 1:
        bad["data"][0, 0, 0, 0] = float("nan")
    trainer.train_step(bad)
    skipped = trainer.non_finite.in_a_row
    loss = trainer.train_step(batch(trainer, slice(rank, rank + 1)))["loss"]
    log, weights = Path(trainer.log_file).read_text(), trainer.bare_network().state_dict()
    return {"skipped": skipped, "loss": float(loss), "weights": weights, "log": log}


def how_it_stops(trainer: trainers.nnUNetTrainerSegMamba, rank: int, loader_dies: bool) -> tuple[int | None, bool]:
    """The exit code, and whether there is a checkpoint, after a signal that the second process alone has had."""
    trainer._all_know, trainer._termination = False, TerminationRequest()
    checkpoint = Path(trainer.output_folder) / LATEST_CHECKPOINT
    if rank == 0:
        checkpoint.unlink(missing_ok=True)

    def epoch() -> None:
        if rank == 1:
            trainer._termination.received = signal.SIGUSR2
            if loader_dies:
                raise RuntimeError("One or more background workers are no longer alive.")
        trainer.train_step(batch(trainer, slice(rank, rank + 1)))

    try:
        trainer._termination.obeyed_by(epoch, trainer._stop_in_order)
    except SystemExit as end:
        return end.code, checkpoint.exists()
    return None, checkpoint.exists()


def main(rank: int, group: str, meeting_point: str, dataset_json: str, plans: str, output: str) -> None:
    torch.set_num_threads(1)
    os.environ["NNUNETV2_MAMBA_SETTINGS"] = ""
    made = make_trainers(group, Path(dataset_json), Path(plans))  # before: nnU-Net takes CUDA for granted afterwards
    minute = timedelta(minutes=1)  # for a process that waits for what the other does not do
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2, timeout=minute)
    results = {}
    with patch(
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.DDP",
        lambda network, device_ids: DistributedDataParallel(network),
    ):
        for name, trainer in made.items():
            trainer.is_ddp, trainer.local_rank = True, rank
            results[name] = step(trainer, slice(rank, rank + 1))
        if group == "ours":
            for each in CONFIGURATIONS:
                results[f"NaN {each}"] = steps_with_and_without_nan(made[f"SegMamba {each}"], rank)
            for loader_dies in (False, True):
                results[f"stopped {loader_dies}"] = how_it_stops(made["SegMamba 2d"], rank, loader_dies)
    dist.destroy_process_group()
    torch.save(results, Path(output) / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
