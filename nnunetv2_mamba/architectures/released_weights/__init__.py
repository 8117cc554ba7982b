"""Weights in the format of SegMamba's, MedSegMamba's, U-Mamba's and U-Mamba2's released code, loaded into our networks.

Nothing here imports or contains that code; the key names are facts of the files. Loading is strict: every source key
is consumed, every target parameter filled, scan tables and copies are compared and dropped.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from nnunetv2_mamba.untrusted.checkpoints import read_plain

from ...files import written_whole
from ..contract import PlannedNetwork
from .plan import plan_of
from .state import State, unwrap

__all__ = ["build_from_released", "convert"]

# Which arguments of ``build_from_released`` apply to which code's weights.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "SegMamba": ("tom_residual",),
    "MedSegMamba": (),
    "U-Mamba": ("strides", "patch_size"),
    "U-Mamba2": ("strides",),
}


def build_from_released(
    state_dict: Mapping,
    tom_residual: bool = True,
    strides: Sequence[Sequence[int]] | None = None,
    patch_size: Sequence[int] | None = None,
) -> PlannedNetwork:
    """Build the network whose released-code weights ``state_dict`` holds, and load them.

    Args:
        state_dict: SegMamba's, MedSegMamba's, U-Mamba's or U-Mamba2's, as their code saves it (wrapped in a checkpoint
            or not).
        tom_residual: SegMamba only. Its code had no residual around ToM before 5 June 2024; the files of both times
            have the same keys, so a checkpoint of the older time needs False.
        strides, patch_size: U-Mamba only, the latter for ``UMambaEnc`` only: its plan's. Not needed with a whole
            checkpoint of its nnU-Net, which holds the plans. U-Mamba2's weights say their strides themselves; those of
            the argument or the checkpoint must agree.

    Returns:
        ``SegMamba`` or ``MedSegMamba`` with deep supervision off, ``UMambaBot``, ``UMambaEnc`` or ``UMamba2`` with it
        on (their files have all heads), in training mode as constructed. The released MedSegMamba ends in a softmax;
        ours returns the logits before it.

    Raises:
        ValueError: if the state_dict is of another network or of one that cannot be represented, with the reason; for
            arguments that do not apply to it.
    """
    state = unwrap(state_dict)
    build = _builder(state, state_dict, tom_residual, strides, patch_size)
    with torch.device("meta"):  # sizes that the weights do not fill are refused before they take memory
        build(dict(state))
    return build(state)


def _builder(
    state: State,
    checkpoint: Mapping,
    tom_residual: bool,
    strides: Sequence[Sequence[int]] | None,
    patch_size: Sequence[int] | None,
) -> Callable[[State], PlannedNetwork]:
    """Return what builds the network of ``state`` and loads it; arguments as :func:`build_from_released`."""
    from ..medsegmamba.released_weights import build_medsegmamba  # here, because they use this room's tools
    from ..segmamba.released_weights import build_segmamba
    from ..umamba.released_weights import build_umamba
    from ..umamba2.released_weights import build_umamba2

    code = _code_of(state)
    given = {"tom_residual": None if tom_residual else False, "strides": strides, "patch_size": patch_size}
    for name, value in given.items():
        if value is not None and name not in _ARGUMENTS[code]:
            applies = " and ".join(other for other, names in _ARGUMENTS.items() if name in names)
            raise ValueError(f"{name}={value} applies to {applies}; this is a {code} state_dict")
    if code == "SegMamba":
        return partial(build_segmamba, tom_residual=tom_residual)
    if code == "MedSegMamba":
        return build_medsegmamba
    if code == "U-Mamba2":
        return partial(build_umamba2, strides=strides or plan_of(checkpoint).get("strides"))
    plan = {"strides": strides, "patch_size": patch_size}
    return partial(build_umamba, **{key: value or plan_of(checkpoint).get(key) for key, value in plan.items()})


def _code_of(state: State) -> str:
    """Return whose code's weights these are: a key of ``_ARGUMENTS``."""
    if any(key.startswith("vit.") for key in state):
        return "SegMamba"
    if any(key.startswith("mamba_encoder.") for key in state):
        raise ValueError(
            "this is a SegMamba checkpoint from before 7 March 2024 (keys 'mamba_encoder.*'): bidirectional Mamba "
            "without gated spatial convolution, another network than the published one; it cannot be loaded"
        )
    if "Conv_1x1.weight" in state and "expand.weight" in state:
        return "MedSegMamba"
    if "encoder.stem.0.conv1.weight" in state and "decoder.upsample_layers.0.conv.weight" in state:
        return "U-Mamba"
    if "encoder.stem.convs.0.conv.weight" in state and "mamba_layer.mamba.dt_bias" in state:
        return "U-Mamba2"
    raise ValueError(
        "neither a SegMamba state_dict (keys 'vit.*', 'encoder1.*') nor a MedSegMamba one (keys 'Conv_1x1.*', "
        "'expand.*') nor a U-Mamba one (keys 'encoder.stem.*', 'decoder.upsample_layers.*') nor a U-Mamba2 one (keys "
        f"'encoder.stem.convs.*', 'mamba_layer.mamba.dt_bias'): found {', '.join(sorted(state)[:5])}, ..."
    )


def convert(src: str | os.PathLike, dst: str | os.PathLike) -> str:
    """Convert a released-format checkpoint to a file for ``nnUNetv2_train -pretrained_weights``.

    ``src`` is read as plain data; nothing else is accepted. ``dst`` is written whole or not at all.

    Returns:
        One line that says what was converted, and what plans must say alike.

    Raises:
        ValueError: if ``src`` holds other objects than tensors, numbers and plain containers, or another network.
        OSError: if a file cannot be read or written.
    """
    src, dst = Path(src), Path(dst)
    try:
        checkpoint = read_plain(src)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{src} cannot be loaded as plain weights ({type(error).__name__}): it is damaged, or holds pickled "
            "objects, which may run code and are refused. Save it again as a state_dict of tensors."
        ) from None
    except ValueError as error:
        raise ValueError(f"{src} cannot be loaded as plain weights: {error}") from None
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{src} holds a {type(checkpoint).__name__}, expected a state_dict")
    network = build_from_released(checkpoint)
    with written_whole(dst) as temporary:
        torch.save({"network_weights": network.state_dict()}, temporary)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    return (
        f"{type(network).__name__}: {network.input_channels} channels in, {network.num_classes} out, "
        f"features_per_stage {list(network.topology.features)}, strides {[*map(list, network.topology.strides)]}, "
        f"{n_parameters:,} parameters"
    )
