"""The line that a container prints for a case, and what can be read from it again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nnunetv2_mamba.memory.usage import process_peak

from ..text import printable, times

_MIB = 2**20
_LINE = re.compile(
    r"(?P<name>[^/]+?): /.*, (?P<size>\d+ x \d+ x \d+) voxels, (?P<seconds>[\d.]+) s"
    r"(?:, (?P<memory>\d+) MiB)?(?:, (?P<gpu>\d+) MiB of the GPU)?"
)


class CaseCost(NamedTuple):
    """A case that was segmented.

    Attributes:
        size: voxels along its axes.
        memory_mib, gpu_memory_mib: the process's largest so far; None where it is not known, or there is no GPU.
    """

    name: str
    size: tuple[int, ...]
    seconds: float
    memory_mib: int | None
    gpu_memory_mib: int | None


def line_of_case(name: str, output: Path, how: str, size: Sequence[int], seconds: float) -> str:
    """The line; the memory in it is this process's largest so far."""
    memory = [f"{peak // _MIB} MiB{of}" for peak, of in ((process_peak(), ""), (_gpu_peak(), " of the GPU")) if peak]
    parts = [printable(output), how, f"{times(size)} voxels", f"{seconds:.1f} s", *memory]
    return f"{printable(name)}: {', '.join(parts)}"


def read_lines(text: str) -> list[CaseCost]:
    """The cases of all such lines in a program's output."""
    matches = filter(None, map(_LINE.fullmatch, text.splitlines()))
    return [
        CaseCost(
            match["name"],
            tuple(map(int, match["size"].split(" x "))),
            float(match["seconds"]),
            match["memory"] and int(match["memory"]),
            match["gpu"] and int(match["gpu"]),
        )
        for match in matches
    ]


def _gpu_peak() -> int:
    """Bytes that torch has allocated at most, 0 without a GPU."""
    import torch  # a container looks for its input before it takes the seconds that this takes

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
