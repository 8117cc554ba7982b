"""Out of memory: the message names the plan, the estimate and the next smaller setting."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from commands import run
from registered_networks import slow_if_of_monai
from tiny_dataset import DATASET_ID, NETWORKS

from nnunetv2_mamba import trainers
from nnunetv2_mamba.memory.estimate import GIB, usable_bytes
from nnunetv2_mamba.planning.network_options import parse_options
from nnunetv2_mamba.planning.planners import PLANNERS
from nnunetv2_mamba.trainers import out_of_memory
from nnunetv2_mamba.trainers.out_of_memory import OutOfMemoryError, advice

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


def raising(error: BaseException):
    def forward(*_):
        raise error

    return forward


@pytest.mark.parametrize("step", ["train_step", "validation_step"])
@pytest.mark.parametrize("error", ERRORS, ids=["CUDA", "MPS", "CPU", "Python"])
def test_message(make_trainer, monkeypatch, error, step):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    monkeypatch.setattr(trainer.network, "forward", raising(error))
    with pytest.raises(OutOfMemoryError) as raised:
        getattr(trainer, step)(next(trainer.dataloader_train))
    assert raised.value.__cause__ is error
    message = str(raised.value)
    assert "tinySegMambaPlans 3d_fullres trains patches of 16 x 24 x 20 with 2 channels, 2 at once" in message
    estimate = float(re.search(r"estimate of a step is ([\d.]+) GiB", message)[1])
    assert 0.005 < estimate < 0.5
    assert "activation_checkpointing=true in NNUNETV2_MAMBA_SETTINGS, or a smaller batch_size" in message


@pytest.mark.parametrize("network", slow_if_of_monai(NETWORKS))
def test_every_network_is_estimated(make_trainer, network):
    trainer = make_trainer(f"nnUNetTrainer{network}")
    trainer.initialize()
    batch = {"data": torch.empty(2, 2, *trainer.configuration_manager.patch_size)}
    assert float(re.search(r"estimate of a step is (\d\.\d\d) GiB", trainer.explain_memory(batch))[1]) > 0


def test_other_errors_stay_what_they_are(make_trainer, monkeypatch):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    monkeypatch.setattr(trainer.network, "forward", raising(error))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        trainer.train_step(next(trainer.dataloader_train))
    assert raised.value is error


def test_the_next_smaller_plans():
    text = advice(int(usable_bytes(24)) - 1, 101, "SegMamba", checkpointing=False)
    assert "plan -d 101 --network SegMamba --gpu-memory 16, then train with -p nnUNetSegMamba16GPlans" in text
    assert "--gpu-memory 24," in advice(int(usable_bytes(24)) + 1, 101, "SegMamba", checkpointing=False)
    text = advice(GIB, 101, "SegMamba", checkpointing=True)
    assert text == "the next smaller setting is a smaller batch_size or patch_size in the plan"
    assert "--gpu-memory GIB," in advice(None, 101, "SegMamba", checkpointing=True)


def test_the_smaller_plans_are_of_the_same_network(make_trainer, tiny_dataset, monkeypatch):
    """Those that the command without its options makes are of a wider SegMamba that scans in another order."""
    plans = tiny_dataset.plans("tinySegMambaPlans")
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments |= {"scan": "hilbert", "n_tom_layers_per_stage": [1, 1], "mixer": "conv"}
    tiny_dataset.write_plans("hilbertPlans", plans)
    monkeypatch.setattr(out_of_memory, "estimated_bytes", lambda *_: int(usable_bytes(24)) + 1)
    trainer = make_trainer("nnUNetTrainerSegMambaConv", plans="hilbertPlans")  # which is about the mixer
    trainer.initialize()
    message = trainer.explain_memory({"data": torch.empty(2, 2, *trainer.configuration_manager.patch_size)})
    options = parse_options(re.findall(r"--option (\S+?)(?=,? )", message))
    widths = arguments["features_per_stage"]
    assert options == {"scan": "hilbert", "n_tom_layers_per_stage": [1, 1], "features_per_stage": widths}
    assert "--network SegMamba --gpu-memory 24 --option" in message
    assert "--plans-name NAME, then train with -p NAME" in message
    assert "then train with the plans that it names" in advice(
        None, 901, "SegMamba", checkpointing=True, options={"scan": "hilbert"}
    )
    assert "--option drop_path=0.1 --plans-name NAME, then train with -p NAME" in advice(
        None, 901, "MedSegMamba", checkpointing=True, options={"drop_path": 0.1}
    )
    trainer = make_trainer("nnUNetTrainerSegMamba", plans="nnUNetPlans")
    trainer.initialize()
    message = trainer.explain_memory({"data": torch.empty(2, 2, *trainer.configuration_manager.patch_size)})
    assert "--gpu-memory 24, then train with -p nnUNetSegMamba24GPlans" in message


def test_a_network_without_a_planner_is_sent_to_none():
    for estimate in (None, 100 * GIB):
        assert "plan " not in advice(estimate, 101, None, checkpointing=True)


@pytest.mark.parametrize("name", trainers.__all__)
def test_the_planner_of_the_advice_is_that_of_the_trainer(name):
    """SegMambaBot has MedSegMamba's class, and another bottleneck, which its own planner traces."""
    trainer = getattr(trainers, name)
    planned = {planner.trainer: key for key, planner in PLANNERS.items()}
    assert trainer.network_name == next(planned[parent] for parent in trainer.__mro__ if parent in planned)


@pytest.mark.parametrize("name", ["nnUNetTrainerSegMambaBotConv", "nnUNetTrainerTABSurfer_5epochs"])
def test_a_trainer_is_sent_to_its_planner(make_trainer, monkeypatch, name):
    planner = name.removeprefix("nnUNetTrainer").removesuffix("Conv").split("_")[0]
    monkeypatch.setattr(out_of_memory, "estimated_bytes", lambda *_: int(usable_bytes(24)) + 1)
    trainer = make_trainer(name)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    monkeypatch.setattr(trainer.network, "forward", raising(MemoryError()))
    advised = f"--network {planner} --gpu-memory 24( --option [a-z_]+=[][0-9.,]+)* --plans-name NAME, then train with "
    with pytest.raises(OutOfMemoryError, match=advised):
        trainer.train_step(next(trainer.dataloader_train))


# An address space with room for the weights but not for a step.
LITTLE_MEMORY = """
import resource, torch
from nnunetv2_mamba.trainers import nnUNetTrainerSegMamba
before = nnUNetTrainerSegMamba.train_step
def train_step(self, batch):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, resource.RLIM_INFINITY))
    return before(self, batch)
nnUNetTrainerSegMamba.train_step = train_step
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space with Linux's means")
def test_a_process_that_really_runs_out(tiny_dataset, tmp_path, monkeypatch):
    plans = tiny_dataset.plans("tinySegMambaPlans")
    plans["configurations"]["3d_fullres"]["batch_size"] = 32
    tiny_dataset.write_plans("hugePlans", plans)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    training = (DATASET_ID, "3d_fullres", 0, "-tr", "nnUNetTrainerSegMamba", "-p", "hugePlans", "-device", "cpu")
    settings = "num_epochs=1, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"
    log = run(tmp_path, "nnUNetv2_train", *training, settings=settings, before=LITTLE_MEMORY, returncode=1)
    assert "can't allocate memory" in log
    assert "OutOfMemoryError: out of memory; hugePlans 3d_fullres trains patches of 16 x 24 x 20" in log
