"""State dictionaries: read, taken out of their wrapping, renamed, and loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

State = dict[str, torch.Tensor]
WRAPPERS = ("network_weights", "state_dict", "model_state_dict", "module", "model")
PREFIXES = ("module.", "_orig_mod.")


def read_plain(file: Path | BinaryIO) -> Any:
    """Load a file of tensors, plain containers and numpy's numbers, as nnU-Net's checkpoints hold in their logs.

    Raises:
        pickle.UnpicklingError: for any other object; none of its code is run.
    """
    scalar = np.float64(0).__reduce__()[0]  # numpy's constructor of numbers, wherever this version has it
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i8")]
    with torch.serialization.safe_globals([*((scalar, name) for name in names), np.dtype, *kinds]):
        return torch.load(file, map_location="cpu", weights_only=True)


def unwrap(checkpoint: Mapping) -> State:
    """Return the state_dict inside a checkpoint, without the prefixes of DDP and torch.compile.

    Raises:
        ValueError: if there is none.
    """
    while not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        inner = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if inner is None:
            raise ValueError(
                f"no state_dict found: expected tensors, or a dictionary under one of {', '.join(WRAPPERS)}; found the "
                f"keys {', '.join(map(str, list(checkpoint)[:8]))}"
            )
        checkpoint = inner
    state = dict(checkpoint)
    for prefix in PREFIXES * 2:  # in either order of wrapping
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def shape_of(state: State, key: str) -> torch.Size:
    """Shape of ``state[key]``.

    Raises:
        ValueError: if the key is missing.
    """
    if key not in state:
        raise ValueError(f"the state_dict is incomplete: {key} is missing")
    return state[key].shape


def count(state: State, pattern: str, first: int = 0) -> int:
    """The number of consecutive indices i, from ``first``, for which ``pattern.format(i)`` is a key."""
    n = 0
    while pattern.format(first + n) in state:
        n += 1
    return n


def rename_modules(state: State, modules: Mapping[str, str]) -> State:
    """Replace the module part of every key; a key of another module keeps its name (and is refused at loading)."""
    renamed = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        renamed[f"{modules.get(module, module)}.{name}"] = value
    return renamed


def load_strictly(network: nn.Module, state: State) -> None:
    """Load, every key consumed and every parameter filled.

    Raises:
        ValueError: naming keys that are unknown, missing or of another shape.
    """
    own = network.state_dict()
    unknown = sorted(set(state) - set(own))
    missing = sorted(set(own) - set(state))
    if unknown or missing:
        raise ValueError(
            f"the state_dict does not fit {type(network).__name__}: "
            f"unknown keys {unknown[:5] or 'none'}, missing {missing[:5] or 'none'}"
        )
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ValueError(
                f"{key} has shape {tuple(value.shape)}, this {type(network).__name__} needs {tuple(own[key].shape)}"
            )
    network.load_state_dict(state)
