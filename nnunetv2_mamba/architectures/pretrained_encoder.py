"""Weights of a self-supervised pre-training (nnssl's format) into the part of a network before its decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nnunetv2_mamba.text import first_few

from .contract import PlannedNetwork


def load_pretrained_encoder(network: PlannedNetwork, checkpoint: Mapping[str, Any]) -> list[str]:
    """Copy the encoder's weights, and the bottleneck's where the checkpoint has them, into ``network``.

    A layer that reads the images takes a checkpoint of another number of channels: the sum of its weights over the
    checkpoint's channels, shared out equally among the network's, as nnU-Net does with one channel. Nothing is copied
    unless all fits.

    Args:
        network: the checkpoint's network, with other heads, decoder or channels; changed in place. A learned position
            embedding for another patch size keeps its initial values.
        checkpoint: ``network_weights``, and in ``nnssl_adaptation_plan`` what these keys of the contract
            (see :class:`.contract.PlannedNetwork`) were: ``key_to_encoder``, ``key_to_stem``, ``key_to_lpe``.

    Returns:
        Names of the encoder's and the bottleneck's tensors that the checkpoint lacks, which keep their initial values.

    Raises:
        ValueError: if the checkpoint has another form, none of the encoder's tensors, or some of another shape.
    """
    weights, plan = _parts(checkpoint)
    wanted = _sources(network, plan)
    found: dict[str, Tensor] = {}
    misfits = []
    state = network.state_dict()
    for name, source in wanted.items():
        if source not in weights or (name == network.key_to_lpe and weights[source].shape != state[name].shape):
            continue
        fitted = _fitted(weights[source], state[name], network.input_channels)
        if fitted is None:
            misfits.append(f"{source} {tuple(weights[source].shape)} for {name} {tuple(state[name].shape)}")
        else:
            found[name] = fitted
    if misfits:
        raise ValueError(
            f"tensors of the checkpoint do not fit {type(network).__name__}: {first_few(misfits, 3)}; train "
            "with plans of the widths, kernels and options of the pre-training"
        )
    if not any(name.startswith(f"{network.key_to_encoder}.") for name in found):
        raise ValueError(
            f"the checkpoint has no tensor of {type(network).__name__}'s encoder, whose names start with "
            f"{plan.get('key_to_encoder') or network.key_to_encoder!r}; it is of another network"
        )
    network.load_state_dict(found, strict=False)
    return [name for name in wanted if name not in found]


def _parts(checkpoint: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """Return the tensors and the plan of what a file held."""
    found = checkpoint if isinstance(checkpoint, Mapping) else {}
    weights, plan = found.get("network_weights"), found.get("nnssl_adaptation_plan")
    if not isinstance(weights, Mapping) or not isinstance(plan, Mapping):
        raise ValueError("not a checkpoint of nnssl: it has no network_weights or no nnssl_adaptation_plan")
    for key in ("key_to_encoder", "key_to_stem", "key_to_lpe"):
        if not isinstance(plan.get(key), str | None):
            raise ValueError(f"not a checkpoint of nnssl: in nnssl_adaptation_plan, {key} is no name: {plan[key]!r}")
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}, plan


def _sources(network: PlannedNetwork, plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the name in the checkpoint of every tensor of ``network`` before the decoder."""
    modules = {key: key for key in network.keys_to_bottleneck}
    modules[network.key_to_encoder] = plan.get("key_to_encoder") or network.key_to_encoder
    modules[network.key_to_stem] = plan.get("key_to_stem") or network.key_to_stem
    sources = {}
    for name in network.state_dict():
        inside = [key for key in modules if name.startswith(f"{key}.")]
        if inside:
            module = max(inside, key=len)  # the stem may be a part of the encoder
            sources[name] = modules[module] + name[len(module) :]
    if network.key_to_lpe is not None:
        sources[network.key_to_lpe] = plan.get("key_to_lpe") or network.key_to_lpe
    return sources


def _fitted(source: Tensor, target: Tensor, channels: int) -> Tensor | None:
    """Return ``source`` in the shape of ``target``, maybe a convolution of ``channels`` images; None if that fails."""
    if source.shape == target.shape:
        return source
    reads_images = target.ndim > 2 and target.shape[1] == channels and source.ndim == target.ndim
    if reads_images and source.shape[0] == target.shape[0] and source.shape[2:] == target.shape[2:]:
        return source.sum(1, keepdim=True).expand_as(target) / channels
    return None
