"""Outputs of the authors' released code, in ``tests/golden`` (see the README there).

The files hold outputs only. Weights and inputs are made by a rule from the names of the released code's parameters, in
which no rounding of a library has a part: the same numbers on every machine.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def drawn(name: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform in [-1, 1), from the name; NumPy keeps ``RandomState``'s numbers for all time (its NEP 19)."""
    return np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, tuple(shape))


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """The value of a parameter of the released code, by its name: fp32, of the size that a trained one has."""
    noise, last = drawn(name, shape), name.rpartition(".")[2]
    if re.fullmatch(r"A(_[bs])?_logs?", last):
        value = 1 + noise
    elif re.fullmatch(r"D(_[bs])?|Ds", last):
        value = 1 + noise / 2
    elif last == "dt_bias" or ("dt_proj" in name and last.endswith("bias")):
        value = noise - 2  # steps of 0.05 to 0.3: a token is remembered for some rows of the small grids
    elif len(shape) == 1:
        value = noise / 2 + (last == "weight")
    else:
        value = noise * np.sqrt(3 / np.prod(shape[1:] if last == "weight" else shape[-1:]))
    return value.astype(np.float32)


def sampled(tensor: Tensor, step: int) -> Tensor:
    """Every ``step``-th value of the C-order raster."""
    return tensor.detach().flatten()[::step]


class GoldenFile:
    """One file: how the released code was called, and samples of what it gave.

    ``description`` has the network's configuration, the shapes of parameters and inputs, the shape of every output and
    the step of its samples. The released code computed in float64; the samples are rounded to float32.
    """

    def __init__(self, name: str):
        with np.load(GOLDEN / f"{name}.npz") as file:
            self._arrays = dict(file)
        self.description = json.loads(str(self._arrays.pop("description")))
        self.config = self.description["config"]
        self.names = list(self.description["parameters"])
        self.outputs = list(self.description["outputs"])

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The released code's weights, under its names; scan tables included where it keeps them there."""
        shapes = self.description["parameters"]
        state = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}
        return state | {key: self.array(table).long() for key, table in self.description.get("tables", {}).items()}

    def input(self, name: str = "input") -> Tensor:
        return torch.from_numpy(2 * drawn(name, self.description["inputs"][name]))

    def expected(self, name: str) -> Tensor:
        return self.array(f"output/{name}").double()

    @staticmethod
    def probe(name: str, shape: Sequence[int]) -> Tensor:
        """The numbers by which the logits were multiplied for a loss, and gradients for a directional derivative."""
        return torch.from_numpy(drawn(f"probe of {name}", shape))

    def samples_of(self, name: str, tensor: Tensor) -> Tensor:
        """The values of ``tensor`` where the file has those of the output ``name``.

        Tokens may come as ``(batch, length, channels)`` where the released code keeps their grid.
        """
        output = self.description["outputs"][name]
        if tensor.ndim == 3 and len(output["shape"]) == 5:
            batch, *grid, channels = output["shape"]
            assert tensor.shape == (batch, np.prod(grid), channels)
            tensor = tensor.view(output["shape"])
        assert list(tensor.shape) == output["shape"], f"{name}: {tuple(tensor.shape)}"
        return sampled(tensor, output["step"]).double()
