"""docs/troubleshooting.md shows the messages that are printed."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from documentation import BLOCKS, ROOT, Block
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_mamba import cli, doctor
from nnunetv2_mamba.architectures import SegMamba, UMambaEnc
from nnunetv2_mamba.architectures.from_plans import network_from_plans
from nnunetv2_mamba.architectures.released_weights import build_from_released
from nnunetv2_mamba.nnunet.checkpoint import checkpoint_written_whole, load_own_checkpoint
from nnunetv2_mamba.ops import backend_selection
from nnunetv2_mamba.ops.backend_selection import choose_backend
from nnunetv2_mamba.ops.backends import cpu_build, toolchain, triton_devices
from nnunetv2_mamba.trainers.base import nnUNetTrainerMamba
from nnunetv2_mamba.trainers.precision import Precision
from nnunetv2_mamba.trainers.recipe import Recipe
from nnunetv2_mamba.trainers.resumable_trainer import settings_to_adopt
from nnunetv2_mamba.trainers.settings import VARIABLE, read_settings, with_settings

MESSAGES = [block for block in BLOCKS if block.page == "docs/troubleshooting.md" and block.language == "output"]
HERE = "printed in tests/test_troubleshooting.py"
SMALL = {
    "input_channels": 2,
    "n_stages": 3,
    "features_per_stage": [8, 16, 128],
    "conv_op": torch.nn.Conv3d,
    "kernel_sizes": 3,
    "strides": [1, 2, 2],
    "num_classes": 3,
}
TRANSFORMER_PLAN = SimpleNamespace(
    network_arch_init_kwargs={},
    network_arch_class_name="dynamic_network_architectures.architectures.primus.Primus",
    network_arch_init_kwargs_req_import=[],
)


def documented(message: str) -> Block | None:
    """The block that holds the message; ``…`` in the page stands for anything."""
    for block in MESSAGES:
        pattern = ".*".join(re.escape(part) for part in " ".join(block.body.split()).split("…"))
        if re.fullmatch(pattern, " ".join(message.split())):
            return block
    return None


def segmamba(*shape: int) -> None:
    with torch.device("meta"):
        SegMamba(**SMALL)(torch.empty(shape))


def umamba_enc_on_another_patch() -> None:
    with torch.device("meta"):
        UMambaEnc(**SMALL, patch_size=(16, 16, 16))(torch.empty(1, 2, 32, 16, 16))


def umamba_enc_with_weights_of_another_patch() -> None:
    weights = UMambaEnc(**SMALL, patch_size=(16, 16, 16)).state_dict()
    UMambaEnc(**SMALL, patch_size=(16, 16, 8)).load_state_dict(weights)


def settings(patch: pytest.MonkeyPatch, value: str) -> None:
    patch.setenv(VARIABLE, value)
    with_settings(Recipe(), read_settings())


def mixed_precision(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("NNUNETV2_MAMBA_AMP", "fp8")
    Precision(torch.device("cpu"))


def few_slices_in_bf16(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("NNUNETV2_MAMBA_AMP", "bf16")
    convolution = torch.nn.Conv3d(1, 1, 3, padding=1)
    Precision(torch.device("cpu")).check_convolutions(convolution)
    convolution(torch.zeros(1, 1, 2, 4, 4))


def without_a_compiler(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PATH", "")
    patch.delenv("CXX", raising=False)
    patch.setitem(sys.modules, "ziglang", None)
    with pytest.raises(cpu_build.BuildError) as missing:
        cpu_build.find_compiler()
    patch.setattr(backend_selection, "unavailable", lambda *_: str(missing.value))
    backend_selection._warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend_selection.resolve(torch.device("cpu"), (torch.float32,), None)


def a_gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.cuda, "device", lambda device: nullcontext())
    patch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    patch.setattr(torch.version, "hip", None)


def on_a_gpu() -> str | None:
    triton_devices.available.cache_clear()
    try:
        return choose_backend("cuda")[1]
    finally:
        triton_devices.available.cache_clear()


def without_triton(patch: pytest.MonkeyPatch) -> str | None:
    a_gpu(patch, (8, 0))
    patch.setitem(sys.modules, "triton", None)
    return on_a_gpu()


def an_old_gpu(patch: pytest.MonkeyPatch) -> str | None:
    a_gpu(patch, (6, 1))
    return on_a_gpu()


def with_a_triton_that_raises(patch: pytest.MonkeyPatch, error: Exception) -> str | None:
    a_gpu(patch, (8, 0))

    def fail():
        raise error

    driver = SimpleNamespace(active=SimpleNamespace(get_current_target=fail))
    patch.setitem(sys.modules, "triton", SimpleNamespace(runtime=SimpleNamespace(driver=driver)))
    return on_a_gpu()


def without_a_c_compiler(patch: pytest.MonkeyPatch) -> str | None:
    error = RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")
    return with_a_triton_that_raises(patch, error)


def without_python_h(patch: pytest.MonkeyPatch) -> str | None:
    patch.setattr(toolchain, "_has_headers", lambda: False)
    return with_a_triton_that_raises(patch, subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/tmp/main.c"]))


def on_a_full_gpu(patch: pytest.MonkeyPatch) -> str | None:
    return with_a_triton_that_raises(patch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."))


def on_a_gpu_that_a_kernel_has_broken(patch: pytest.MonkeyPatch) -> str | None:
    return with_a_triton_that_raises(patch, RuntimeError("CUDA error: an illegal memory access was encountered"))


def on_an_amd_gpu(patch: pytest.MonkeyPatch) -> str | None:
    a_gpu(patch, (9, 0))
    patch.setattr(torch.version, "hip", "6.4")
    return choose_backend("cuda")[1]


def without_a_gpu(patch: pytest.MonkeyPatch, backend: str | None) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)
    backend_selection.unavailable.cache_clear()
    choose_backend("cuda", backend=backend)


def without_mamba_ssm(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "selective_scan_cuda", None)
    patch.setenv("NNUNETV2_MAMBA_SCAN", "mamba_ssm")
    without_a_gpu(patch, None)


def not_registered(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("nnUNet_extTrainer", "")
    recursive_find_trainer_class_by_name("nnUNetTrainerSegMamba")


def doctor_not_registered(patch: pytest.MonkeyPatch) -> str:
    patch.delenv("nnUNet_extTrainer", raising=False)
    patch.setenv("NNUNETV2_MAMBA_AUTOREGISTER", "0")
    (finding,) = doctor.start_up()
    return f"PROBLEM  {finding.subject:<22}{finding.text}\n         remedy: {finding.remedy}"


def continue_with_another_optimizer() -> None:
    settings_to_adopt(Recipe(optimizer="adamw"), {"optimizer": "sgd"}, {"optimizer"}, nnUNetTrainerMamba.FIXED)


def damaged_checkpoint(folder: Path) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.parent.mkdir()
    torch.save(torch.zeros(100_000), path)
    path.write_bytes(path.read_bytes()[:-1000])
    load_own_checkpoint(str(path))


def checkpoint_not_written(folder: Path) -> None:
    with checkpoint_written_whole(folder / "none" / "checkpoint_best.pth") as path:
        torch.save({}, path)


# What is called with a MonkeyPatch and a folder raises the message or returns it.
Provoke = Callable[[pytest.MonkeyPatch, Path], str | None]
PROVOKED: dict[str, Provoke] = {
    "axis": lambda patch, folder: segmamba(1, 2, 18, 16, 16),
    "one voxel": lambda patch, folder: segmamba(1, 2, 4, 4, 4),
    "channels": lambda patch, folder: segmamba(1, 1, 16, 16, 16),
    "UMambaEnc, patch": lambda patch, folder: umamba_enc_on_another_patch(),
    "UMambaEnc, weights": lambda patch, folder: umamba_enc_with_weights_of_another_patch(),
    "transformer plan": lambda patch, folder: network_from_plans(SegMamba, TRANSFORMER_PLAN, 1, 2, True),
    "old weights": lambda patch, folder: build_from_released({"mamba_encoder.weight": torch.zeros(1)}),
    "other weights": lambda patch, folder: build_from_released({"foo": torch.zeros(1)}),
    "unknown setting": lambda patch, folder: settings(patch, "epochs=2"),
    "wrong setting": lambda patch, folder: settings(patch, "num_epochs=2.5"),
    "setting without quotes": lambda patch, folder: settings(patch, "optimizer=adamw"),
    "settings file": lambda patch, folder: settings(patch, "mine.toml"),
    "mixed precision": lambda patch, folder: mixed_precision(patch),
    "few slices in bf16": lambda patch, folder: few_slices_in_bf16(patch),
    "unknown backend": lambda patch, folder: choose_backend("cpu", backend="cuda"),
    "no GPU": lambda patch, folder: without_a_gpu(patch, "triton"),
    "no mamba_ssm": lambda patch, folder: without_mamba_ssm(patch),
    "no compiler": lambda patch, folder: without_a_compiler(patch),
    "no triton": lambda patch, folder: without_triton(patch),
    "old GPU": lambda patch, folder: an_old_gpu(patch),
    "no C compiler": lambda patch, folder: without_a_c_compiler(patch),
    "no Python.h": lambda patch, folder: without_python_h(patch),
    "full GPU": lambda patch, folder: on_a_full_gpu(patch),
    "broken GPU": lambda patch, folder: on_a_gpu_that_a_kernel_has_broken(patch),
    "AMD GPU": lambda patch, folder: on_an_amd_gpu(patch),
    "no trainer": lambda patch, folder: not_registered(patch),
    "doctor": lambda patch, folder: doctor_not_registered(patch),
    "another optimizer": lambda patch, folder: continue_with_another_optimizer(),
    "damaged checkpoint": lambda patch, folder: damaged_checkpoint(folder),
    "checkpoint not written": lambda patch, folder: checkpoint_not_written(folder),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_messages_are_as_documented(name, monkeypatch, tmp_path):
    if name == "doctor" and os.name == "nt":
        pytest.skip("the documented remedy is for a POSIX shell")
    monkeypatch.delenv("NNUNETV2_MAMBA_SCAN", raising=False)
    try:
        message = PROVOKED[name](monkeypatch, tmp_path)
    except Exception as error:
        kind = "OSError" if isinstance(error, OSError) and name != "settings file" else type(error).__name__
        message = f"{kind}: {error}"
    finally:
        monkeypatch.undo()
        backend_selection.unavailable.cache_clear()
        backend_selection._warn_once.cache_clear()
    block = documented(message)
    assert block is not None, message
    assert block.comment == HERE


def plan_without_folders(folder: Path) -> list[str]:
    return ["plan", "-d", "901", "--network", "SegMamba"]


def plan_an_unknown_data_set(folder: Path) -> list[str]:
    (folder / "raw").mkdir()
    return ["plan", "-d", "77", "--network", "SegMamba"]


def plan_to_match_missing_plans(folder: Path) -> list[str]:
    for base in ("raw", "preprocessed"):
        (folder / base / "Dataset901_Tiny").mkdir(parents=True)
    (folder / "raw" / "Dataset901_Tiny" / "dataset.json").write_text("{}")
    for name in ("nnUNetPlans", "nnUNetResEncUNetMPlans"):
        (folder / "preprocessed" / "Dataset901_Tiny" / f"{name}.json").write_text("{}")
    return ["plan", "-d", "901", "--network", "SegMamba", "--match", "nnUNetResEncUNetLPlans"]


def import_pickled_weights(folder: Path) -> list[str]:
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "weights.pth")
    return ["import-weights", str(folder / "weights.pth"), "-o", str(folder / "out.pth")]


COMMANDS = [plan_without_folders, plan_an_unknown_data_set, plan_to_match_missing_plans, import_pickled_weights]


@pytest.mark.parametrize("prepare", COMMANDS)
def test_messages_of_the_command_are_as_documented(prepare, tmp_path, monkeypatch, capsys):
    arguments = prepare(tmp_path)
    for variable, folder in (("nnUNet_raw", "raw"), ("nnUNet_preprocessed", "preprocessed")):
        if (tmp_path / "raw").exists():
            monkeypatch.setenv(variable, str(tmp_path / folder))
        else:
            monkeypatch.delenv(variable, raising=False)
    assert cli.main(arguments) == 1
    block = documented(capsys.readouterr().err)
    assert block is not None and block.comment == HERE


def test_every_message_says_where_it_is_printed():
    ours = [block for block in MESSAGES if block.comment == HERE]
    assert len(ours) == len(PROVOKED) + len(COMMANDS)
    for block in MESSAGES:
        if block not in ours and block.comment not in ("nnU-Net's own", "PyTorch's own"):
            where = re.fullmatch(r"printed in (tests/\S+\.py)", block.comment)
            assert where and (ROOT / where[1]).is_file(), block
