"""Energy counters of the GPU's driver and of the CPU, where they can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_RAPL = Path("/sys/class/powercap")


def energy_counter(device: torch.device) -> Callable[[], float | None]:
    """Find the counter of a device: the GPU's, or that of all CPU packages where the training runs on the CPU.

    Counters are of whole devices: what other processes use at the same time is in it.

    Returns:
        A function that says how many joules were used since a fixed moment; None where the driver does not tell, or
        not any more (one that is updated under a training answers no question). That of the CPU must be called more
        often than the counter goes round, which takes minutes to an hour.
    """
    return (_gpu_counter() if device.type == "cuda" else _cpu_counter()) or (lambda: None)


def _gpu_counter() -> Callable[[], float | None] | None:
    try:
        import pynvml  # nvidia-ml-py
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # some GPUs have no counter
    except pynvml.NVMLError:
        return None

    def read() -> float | None:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
        except pynvml.NVMLError:
            return None

    return read


def _cpu_counter() -> Callable[[], float | None] | None:
    # Not the parts of packages, nor the zone psys of the whole machine, in which the packages are too
    files = sorted(_RAPL.glob("intel-rapl:*/energy_uj"))
    try:
        files = [file for file in files if (file.parent / "name").read_text().startswith("package")]
        limits = [int((file.parent / "max_energy_range_uj").read_text()) for file in files]
        last = [int(file.read_text()) for file in files]
    except OSError:  # only root may read it on most machines
        return None
    if not files:
        return None
    wraps = [0] * len(files)

    def read() -> float | None:
        try:
            values = [int(file.read_text()) for file in files]
        except OSError:
            return None
        for index, value in enumerate(values):
            wraps[index] += value < last[index]
            last[index] = value
        return sum(value + limit * count for value, limit, count in zip(last, limits, wraps, strict=True)) / 1e6

    return read
