"""State dictionaries: taken out of their wrapping, renamed, and loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

State = dict[str, torch.Tensor]
WRAPPERS = ("network_weights", "state_dict", "model_state_dict", "module", "model")
PREFIXES = ("module.", "_orig_mod.")
# A block of dynamic-network-architectures has its layers by two names.
_LAYERS = {".all_modules.0.": ".conv.", ".all_modules.1.": ".norm."}


def unwrap(checkpoint: Mapping) -> State:
    """Return the state_dict inside a checkpoint, without the prefixes of DDP and torch.compile.

    Raises:
        ValueError: if there is none.
    """
    outer: list[Mapping] = []
    while not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        inner = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if inner is None or any(inner is other for other in outer):  # a pickle may hold itself
            raise ValueError(
                f"no state_dict found: expected tensors, or a dictionary under one of {', '.join(WRAPPERS)}; found the "
                f"keys {', '.join(map(str, list(checkpoint)[:8]))}"
            )
        outer.append(inner)
        checkpoint = inner
    state = dict(checkpoint)
    for key, tensor in state.items():
        if not isinstance(key, str) or 0 in tensor.shape:
            raise ValueError(f"no state_dict: {key!r} of shape {tuple(tensor.shape)} is no parameter of a network")
    for prefix in PREFIXES * 2:  # in either order of wrapping
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def shape_of(state: State, key: str, *axes: int) -> torch.Size:
    """Return the shape of ``state[key]``, which has one of these numbers of axes, or any but none.

    Raises:
        ValueError: if the key is missing, or its tensor has another number of axes.
    """
    if key not in state:
        raise ValueError(f"the state_dict is incomplete: {key} is missing")
    shape = state[key].shape
    if not shape or (axes and len(shape) not in axes):
        raise ValueError(f"{key} has shape {tuple(shape)}, expected {' or '.join(map(str, axes)) or 'some'} axes")
    return shape


def count(state: State, pattern: str, first: int = 0) -> int:
    """Return the number of consecutive indices i, from ``first``, for which ``pattern.format(i)`` is a key."""
    n = 0
    while pattern.format(first + n) in state:
        n += 1
    return n


def first_name(key: str) -> str:
    """Return the key under which a block's layer is kept, for either of its names."""
    for copied, kept in _LAYERS.items():
        key = key.replace(copied, kept)
    return key


def drop_copies(state: State) -> None:
    """Remove what networks of dynamic-network-architectures register twice: the encoder, and layers of a block.

    Raises:
        ValueError: if a copy differs from its original.
    """
    for key in list(state):
        original = first_name(key.removeprefix("decoder.") if key.startswith("decoder.encoder.") else key)
        if original == key:
            continue
        shape_of(state, original)
        if not torch.equal(state.pop(key), state[original]):
            raise ValueError(f"{key} should equal {original}, but differs: the state_dict is damaged")


def rename_modules(state: State, modules: Mapping[str, str]) -> State:
    """Replace the module part of every key; a key of another module keeps its name (and is refused at loading)."""
    renamed = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        renamed[f"{modules.get(module, module)}.{name}"] = value
    return renamed


def load_strictly(network: nn.Module, state: State) -> None:
    """Load, every key consumed and every parameter filled; a network without memory (on ``meta``) is only checked.

    Raises:
        ValueError: naming keys that are unknown, missing, of another shape or kind of numbers, or not finite.
    """
    problem = misfit(network, state)
    if problem:
        raise ValueError(f"the state_dict does not fit {type(network).__name__}: {problem}")
    if next(network.parameters()).is_meta:
        return
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} holds numbers that are not finite: the state_dict is of a training that failed")
    network.load_state_dict(state)


def misfit(network: nn.Module, state: State) -> str:
    """Say in one line how a state_dict differs from the network's in keys, shapes or kinds of numbers; empty if not."""
    own = network.state_dict()
    unknown, missing = sorted(set(state) - set(own)), sorted(set(own) - set(state))
    if unknown or missing:
        return f"unknown keys {_few(unknown)}, missing {_few(missing)}"
    for key, value in state.items():
        if value.shape != own[key].shape:
            return f"{key} has shape {tuple(value.shape)}, the network needs {tuple(own[key].shape)}"
        if value.is_floating_point() != own[key].is_floating_point():
            return f"{key} is {value.dtype}, the network needs {own[key].dtype}"
    return ""


def _few(keys: list[str]) -> str:
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{keys[:5]}{more}" if keys else "none"
