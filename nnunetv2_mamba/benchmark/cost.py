"""What a training costs, measured inside its process, epoch by epoch, and kept across interruptions."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba.files import read_optional_json, write_json
from nnunetv2_mamba.memory.usage import process_peak
from nnunetv2_mamba.results.folds import COST
from nnunetv2_mamba.versions import installed_version

from .energy import energy_counter
from .flops import forward_flops
from .training import MEASUREMENTS, Training

_PACKAGES = ("torch", "nnunetv2", "numpy", "nnunetv2-mamba")


class CostRecord:
    """Measures the epochs of a training and its peak memory, and keeps them across interruptions.

    What an interrupted process measured is in ``cost_partial.json`` beside the checkpoints; an epoch that is repeated
    after an interruption counts once.

    Args:
        folder: of the checkpoints.
        device: that the training runs on.
        threads: of torch, as the sweep sets them; None leaves nnU-Net's choice.
    """

    def __init__(self, folder: Path, device: torch.device, threads: int | None):
        self.folder, self.device = folder, device
        kept = read_optional_json(folder / MEASUREMENTS)
        self.content: dict[str, Any] = kept or {"epochs": {}, "peak_memory": {}}
        self._joules = energy_counter(device)
        self._computed_with = {"device": _device_name(device), "device_type": device.type, "threads": threads}
        self._versions = _software()

    def begin_epoch(self) -> None:
        """Start the clock of an epoch."""
        self._began, self._joules_before = time.perf_counter(), self._joules()

    def look(self) -> None:
        """Read the energy counter within an epoch: one that goes round must be read once in every round."""
        self._joules()

    def end_epoch(self, epoch: int, iterations: int) -> None:
        """Note the epoch of this number, which ``begin_epoch`` began, and which had so many iterations of training."""
        joules = self._joules()
        self.content["epochs"][str(epoch)] = {
            "seconds": time.perf_counter() - self._began,
            "joules": None if None in (joules, self._joules_before) else joules - self._joules_before,
            "iterations_per_epoch": iterations,
            **self._computed_with,
        }
        for name, value in peak_memory(self.device).items():
            known = [peak for peak in (self.content["peak_memory"].get(name), value) if peak is not None]
            self.content["peak_memory"][name] = max(known, default=None)
        self._note_versions()
        write_json(self.folder / MEASUREMENTS, self.content)

    def write(self, trainer: nnUNetTrainer, training: Training) -> None:
        """Write ``cost.json`` beside the checkpoints; see docs/benchmarking.md for what is in it."""
        epochs = list(self.content["epochs"].values())
        joules = [epoch["joules"] for epoch in epochs]
        # That of the epochs: this process may have validated only. An interrupted training may have had several
        now = {"iterations_per_epoch": trainer.num_iterations_per_epoch, **self._computed_with}
        of_epochs = {
            key: _all_of(epoch.get(key, value) for epoch in epochs) if epochs else value for key, value in now.items()
        }
        self._note_versions()
        content = {
            **asdict(training),
            "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
            "flops": _flops(trainer),
            "seconds_per_epoch": statistics.median(epoch["seconds"] for epoch in epochs) if epochs else None,
            "epochs": trainer.num_epochs,
            "batch_size": trainer.configuration_manager.batch_size,
            "peak_memory": self.content["peak_memory"],
            "energy_joules": None if not joules or None in joules else sum(joules),
            **of_epochs,
            "versions": {name: _all_of(found) for name, found in self.content["versions"].items()},
        }
        write_json(self.folder / COST, content)

    def _note_versions(self) -> None:
        """Add what this process computes with to what earlier ones did; the validation of the last one counts too."""
        for name, version in self._versions.items():
            found = self.content.setdefault("versions", {}).setdefault(name, [])
            if version not in found:
                found.append(version)


def _all_of(values: Iterable[Any]) -> Any:
    """Return the one value that there is, or all different ones as a text."""
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else " and ".join(map(str, different))


def _flops(trainer: nnUNetTrainer) -> int | None:
    try:
        return forward_flops(type(trainer), trainer.plans_manager, trainer.configuration_name, trainer.dataset_json)
    except Exception as error:  # what any network may raise on tensors without data; the training is finished
        trainer.print_to_log_file(f"FLOPs cannot be counted: {type(error).__name__}: {error}")
        return None


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Read the largest memory so far, in bytes.

    Returns:
        What torch has allocated and reserved on the GPU (None without one), and the process's resident memory (None on
        Windows).
    """
    gpu = device.type == "cuda"
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(device) if gpu else None,
        "reserved_bytes": torch.cuda.max_memory_reserved(device) if gpu else None,
        "process_bytes": process_peak(),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return f"{device.type}, {platform.machine()}"


def _software() -> dict[str, str | None]:
    """Tell the versions of what the training is computed with; None for CUDA and cuDNN where torch has none."""
    return {
        "python": platform.python_version(),
        **{package: installed_version(package) for package in _PACKAGES},
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else None,
    }
