"""Mixed precision by ``NNUNETV2_MAMBA_AMP``."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from registered_networks import OF_MONAI
from tiny_dataset import NETWORKS

from nnunetv2_mamba import trainers
from nnunetv2_mamba.architectures.blocks.state_space import ComputesInFP32
from nnunetv2_mamba.trainers.precision import AMP_VARIABLE, Precision

VALUES = {
    "": (torch.float32, False),
    "none": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, True),
    "BF16": (torch.bfloat16, False),
}


NAMES = [name.removeprefix("nnUNetTrainer") for name in trainers.FULL_LENGTH]


@pytest.mark.parametrize(
    ("name", "value", "dtype", "scaled"),
    [
        pytest.param(
            name,
            value,
            *expected,
            marks=[]
            if name == "SegMamba" or (value == "fp16" and name in NETWORKS and name not in OF_MONAI)
            else pytest.mark.slow,
        )
        for name in NAMES
        for value, expected in VALUES.items()
        if name in NETWORKS or value == "fp16"  # bf16 is refused on a CPU for larger kernels
    ],
)
def test_a_step_in_this_type(make_trainer, tiny_dataset, monkeypatch, name, value, dtype, scaled):
    monkeypatch.setenv(AMP_VARIABLE, value)
    network = getattr(trainers, f"nnUNetTrainer{name}").network_class.__name__
    tiny_dataset.write_plans("precisionPlans", three_slices(tiny_dataset.plans(f"tiny{network}Plans")))
    trainer = make_trainer(f"nnUNetTrainer{name}", "num_epochs=1,num_iterations_per_epoch=8", "precisionPlans")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    assert (trainer.grad_scaler is not None) == scaled
    seen = set()
    in_fp32 = {
        part for layer in trainer.network.modules() if isinstance(layer, ComputesInFP32) for part in layer.modules()
    }
    for module in trainer.network.modules():
        if isinstance(module, torch.nn.Conv3d) and module not in in_fp32:
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    parameters = list(trainer.network.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    for _ in range(8):  # the first steps of fp16 may overflow, until the loss scale has settled
        loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
        if changed := any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True)):
            break
    assert changed and all(torch.isfinite(parameter).all() for parameter in parameters)
    assert seen == {dtype} and math.isfinite(loss) and loss < 10
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def three_slices(plans: dict) -> dict:
    """The plans, of a patch that has three slices at the lowest resolution: see ``check_convolutions``."""
    configuration = plans["configurations"]["3d_fullres"]
    reduction = math.prod(stride[0] for stride in configuration["architecture"]["arch_kwargs"]["strides"])
    slices, *plane = configuration["patch_size"]
    return plans | {
        "configurations": {"3d_fullres": {**configuration, "patch_size": [max(slices, 3 * reduction), *plane]}}
    }


def test_unknown_value_names_the_variable_and_the_choices(make_trainer, monkeypatch):
    monkeypatch.setenv(AMP_VARIABLE, "half")
    with pytest.raises(ValueError, match=f"{AMP_VARIABLE}='half'; it must be one of fp16, bf16, none"):
        make_trainer("nnUNetTrainerSegMamba")


def test_a_device_without_autocast_refuses_it(monkeypatch):
    assert Precision(torch.device("mps")).dtype is None
    monkeypatch.setenv(AMP_VARIABLE, "fp16")
    with pytest.raises(ValueError, match=f"{AMP_VARIABLE}='fp16' needs one of the devices cuda, cpu"):
        Precision(torch.device("mps"))


@pytest.mark.parametrize(("kernel", "slices", "refused"), [(3, 2, True), (5, 4, True), (3, 3, False), (3, 1, False)])
def test_bf16_on_a_cpu_refuses_grids_of_few_slices(monkeypatch, kernel, slices, refused):
    """There torch's weight gradient reads memory that nobody has written."""
    monkeypatch.setenv(AMP_VARIABLE, "bf16")
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 2, kernel, padding=kernel // 2))
    x = torch.randn(1, 2, slices, 6, 6)
    Precision(torch.device("cpu")).check_convolutions(network)
    with torch.no_grad():
        network(x)  # predictions are right
    if refused:
        with pytest.raises(
            RuntimeError, match=f"{AMP_VARIABLE}=bf16 on a CPU.*down to {slices} slices.*{AMP_VARIABLE}=none"
        ):
            network(x)
    else:
        network(x)


def types() -> dict[str, torch.dtype]:
    return {device: torch.get_autocast_dtype(device) for device in ("cuda", "cpu")}


@pytest.fixture
def bf16_gpu(monkeypatch) -> Precision:
    """What a training on a GPU in bf16 has; on the CPU its contexts set the types as there."""
    monkeypatch.setenv(AMP_VARIABLE, "bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    return Precision(torch.device("cuda"))


def test_a_gpu_without_bf16_is_told(monkeypatch):
    monkeypatch.setenv(AMP_VARIABLE, "bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(ValueError, match="bf16, which this GPU does not compute in"):
        Precision(torch.device("cuda"))


@pytest.mark.parametrize("value", ["bf16", "none", "fp16", ""])
def test_constructing_changes_nothing(monkeypatch, bf16_gpu, value):
    before = types()
    monkeypatch.setenv(AMP_VARIABLE, value)
    Precision(torch.device("cuda"))
    assert types() == before


@pytest.mark.parametrize(("value", "dtype"), [("bf16", torch.bfloat16), ("none", torch.float32), ("", torch.float16)])
@pytest.mark.parametrize("moment", ["validation_step", "perform_actual_validation"])
def test_nnunets_own_steps_compute_in_it_and_nothing_else_does(
    make_trainer, monkeypatch, bf16_gpu, moment, value, dtype
):
    """nnU-Net's autocast on CUDA names no type; it takes the process's, which another trainer needs unchanged."""
    trainer = make_trainer("nnUNetTrainerSegMamba")
    monkeypatch.setenv(AMP_VARIABLE, value)
    trainer.precision = Precision(torch.device("cuda"))
    seen, before = [], types()
    monkeypatch.setattr(nnUNetTrainer, moment, lambda *_: seen.append(torch.get_autocast_dtype("cuda")))
    getattr(trainer, moment)(*[{}] * (moment == "validation_step"))
    assert seen == [dtype] and types() == before

    def fail(*_):
        raise RuntimeError("a failure in the step")

    monkeypatch.setattr(nnUNetTrainer, moment, fail)
    with pytest.raises(RuntimeError, match="a failure in the step"):
        getattr(trainer, moment)(*[{}] * (moment == "validation_step"))
    assert types() == before


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_leaves_the_types_as_they_were(make_trainer, monkeypatch, fails):
    monkeypatch.setenv(AMP_VARIABLE, "fp16")
    before = types()
    assert before["cpu"] != torch.float16
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    assert types() == before
    if fails:
        monkeypatch.setattr(trainer.network, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        trainer.train_step(next(trainer.dataloader_train))
    assert types() == before and not torch.is_autocast_enabled("cpu")
