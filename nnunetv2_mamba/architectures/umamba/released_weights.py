"""U-Mamba's released key names to ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op

from ..released_weights.mamba import stack_directions
from ..released_weights.state import State, count, drop_copies, load_strictly, rename_modules, shape_of
from .network import UMambaBot, UMambaEnc


def build_umamba(
    state: State, strides: Sequence[Sequence[int]] | None, patch_size: Sequence[int] | None
) -> UMambaBot | UMambaEnc:
    """Build and load; see :func:`build_from_released`."""
    if strides is None:
        raise ValueError(
            "a U-Mamba state_dict does not say its strides (pool_op_kernel_sizes in its plans); give the whole "
            "checkpoint, which holds the plans, or the argument strides"
        )
    drop_copies(state)
    n_stages = count(state, "encoder.stages.{}.0.conv1.weight")
    stages = [f"encoder.stages.{i}" for i in range(n_stages)]
    decoder_stages = [f"decoder.stages.{i}" for i in range(n_stages - 1)]
    n_blocks, n_blocks_decoder = ([_blocks(state, stage) for stage in part] for part in (stages, decoder_stages))
    kernels = [tuple(shape_of(state, f"{stage}.0.conv1.weight")[2:]) for stage in stages]
    _, input_channels, *stem_kernel = shape_of(state, "encoder.stem.0.conv1.weight", 4, 5)
    options: dict[str, Any] = {}
    if "mamba_layer.norm.weight" in state:
        network_class = UMambaBot
        layers = {"mamba_layer": f"encoder.mamba_layers.{n_stages - 1}"}
    else:
        network_class = UMambaEnc
        if patch_size is None:
            raise ValueError(
                "UMambaEnc's weights belong to one patch size, which its state_dict does not say; give the whole "
                "checkpoint, which holds the plans, or the argument patch_size"
            )
        options["patch_size"] = patch_size
        names = [f"encoder.mamba_layers.{i}" for i in range(n_stages)]
        layers = {name: name for name in names if f"{name}.norm.weight" in state}
    network = network_class(
        input_channels=input_channels,
        n_stages=n_stages,
        features_per_stage=[shape_of(state, f"{stage}.0.conv1.weight")[0] for stage in stages],
        conv_op=convert_dim_to_conv_op(len(stem_kernel)),
        kernel_sizes=kernels,
        strides=strides,
        num_classes=shape_of(state, "decoder.seg_layers.0.weight")[0],
        deep_supervision=True,
        n_blocks_per_stage=n_blocks,
        n_blocks_per_stage_decoder=n_blocks_decoder,
        **options,
    )
    modules = {}
    for theirs, ours in layers.items():
        stack_directions(state, f"{theirs}.mamba.")
        for part in ("norm", "mamba", "mamba.ssm", "mamba.in_proj", "mamba.out_proj"):
            modules[f"{theirs}.{part}"] = f"{ours}.{part}"
    blocks_of = {"encoder.stem": n_blocks[0]} | dict(zip(stages, n_blocks, strict=True))
    blocks_of |= dict(zip(decoder_stages, n_blocks_decoder, strict=True))
    for stage, blocks in blocks_of.items():
        modules[f"{stage}.0.conv3"] = f"{stage}.0.shortcut"
        for block in range(1, blocks):
            for part in ("1", "2"):
                modules[f"{stage}.{block}.conv{part}.conv"] = f"{stage}.{block}.conv{part}"
                modules[f"{stage}.{block}.conv{part}.norm"] = f"{stage}.{block}.norm{part}"
    for i in range(n_stages - 1):  # theirs count the heads from the lowest resolution
        modules[f"decoder.upsample_layers.{i}.conv"] = f"decoder.upsamplings.{i}.1"
        modules[f"decoder.seg_layers.{i}"] = f"decoder.seg_layers.{n_stages - 2 - i}"
    load_strictly(network, rename_modules(state, modules))
    return network


def _blocks(state: State, stage: str) -> int:
    return 1 + count(state, f"{stage}.{{}}.conv1.conv.weight", first=1)
