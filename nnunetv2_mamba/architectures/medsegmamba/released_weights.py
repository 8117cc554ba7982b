"""MedSegMamba's released key names to ours."""

from __future__ import annotations

import torch
from torch import nn

from nnunetv2_mamba.ops import scan_order

from ..released_weights.state import State, count, load_strictly, rename_modules, shape_of
from .network import MedSegMamba

DIRECTIONS = 8  # of SS3D
SS3D_PARAMETERS = {
    "x_proj_weight": "x_proj_weight",
    "dt_projs_weight": "dt_proj_weight",
    "dt_projs_bias": "dt_proj_bias",
    "A_logs": "A_log",
    "Ds": "D",
}


def build_medsegmamba(state: State) -> MedSegMamba:
    """Build and load; see :func:`build_from_released`."""
    for key in [key for key in state if ".scans.index_flat" in key]:
        _check_scan_table(key, state.pop(key))
    n_stages = 1 + count(state, "downconv{}.down.1.conv.0.weight", first=1)
    modules = _convolutions(n_stages)
    if "bottleneck.blocks.0.self_attention.A_logs" in state:
        n_blocks = count(state, "bottleneck.blocks.{}.self_attention.A_logs")
        first_mlp = "bottleneck.blocks.0.mlp.net.0.weight"
        inner, width = shape_of(state, "bottleneck.blocks.0.self_attention.in_proj.weight", 2)
        options = {
            "d_state": shape_of(state, "bottleneck.blocks.0.self_attention.A_logs", 2)[1],
            "expand": inner // width,
        }
        modules |= _ss3d_blocks(n_blocks)
        _stack_directions(state, n_blocks)
    elif "bottleneck.position_encoding.position_embeddings" in state:
        n_blocks = sum(key.endswith(".qkv.weight") for key in state)
        first_mlp = "bottleneck.transformer.net.1.fn.fn.net.0.weight"
        tokens = shape_of(state, "bottleneck.position_encoding.position_embeddings", 3)[1]
        options = {"bottleneck": "transformer", "position_grid": (_cube_edge(tokens),) * 3}
        modules |= _transformer_blocks(n_blocks)
        state["bottleneck.position_encoding.embedding"] = state.pop("bottleneck.position_encoding.position_embeddings")
    else:
        raise ValueError(
            "a MedSegMamba variant with neither SS3D 'v5' blocks nor TABSurfer's transformer: not supported"
        )
    network = MedSegMamba(
        input_channels=shape_of(state, "Conv1.identity.weight", 5)[1],
        n_stages=n_stages,
        features_per_stage=[shape_of(state, f"{_level(level)}.conv.0.weight")[0] for level in range(n_stages)],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * (n_stages - 1),
        num_classes=shape_of(state, "Conv_1x1.weight")[0],
        bottleneck_channels=shape_of(state, "expand.weight")[0],
        n_bottleneck_blocks=n_blocks,
        mlp_channels=shape_of(state, first_mlp)[0],
        **options,
    )
    load_strictly(network, rename_modules(state, modules))
    return network


def _cube_edge(voxels: int) -> int:
    edge = round(voxels ** (1 / 3))
    if edge**3 != voxels:
        raise ValueError(
            f"the bottleneck has {voxels} tokens, which is no cube; the released network works on cubes only"
        )
    return edge


def _check_scan_table(key: str, table: torch.Tensor) -> None:
    """Compare a stored table with ours: the raster's serpentine, the same in every block (the volume was turned)."""
    grid = (_cube_edge(table.numel()),) * 3
    ours = scan_order.ss3d(grid, 0)[0].long()
    if key.endswith("_inv"):
        ours = torch.argsort(ours)
    if not torch.equal(table.flatten(), ours):
        raise ValueError(
            f"{key} is not MedSegMamba's serpentine: another 'scan_type', or a table damaged by an exponential moving "
            "average of the weights; the network would compute something else"
        )


def _stack_directions(state: State, n_blocks: int) -> None:
    """Rename the state-space parameters of every SS3D module; those of all directions get a direction axis."""
    for i in range(n_blocks):
        for theirs, ours in SS3D_PARAMETERS.items():
            key = f"bottleneck.blocks.{i}.self_attention.{theirs}"
            rows = shape_of(state, key)[0]
            value = state.pop(key)
            if theirs in ("A_logs", "Ds"):
                if rows % DIRECTIONS:
                    raise ValueError(f"{key} has {rows} rows, which {DIRECTIONS} directions cannot share")
                value = value.unflatten(0, (DIRECTIONS, -1))
            state[f"bottleneck.blocks.{i}.self_attention.ssm.{ours}"] = value


def _level(level: int) -> str:
    """Return the name of their encoder block of a resolution."""
    return f"downconv{level}.down.1" if level else "Conv1"


def _conv_block(theirs: str, ours: str) -> dict[str, str]:
    """Return the names of the two convolutions and norms of a block, theirs to ours."""
    positions = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}
    return {f"{theirs}.conv.{position}": f"{ours}.{our}" for position, our in positions.items()}


def _convolutions(n_stages: int) -> dict[str, str]:
    modules = {
        "gn": "bottleneck.expand.0",
        "expand": "bottleneck.expand.2",
        "pre_head_ln": "bottleneck.norm",
        "Conv_1x1": "decoder.seg_layers.0",
    }
    modules |= _conv_block("compress", "bottleneck.compress")
    for level in range(n_stages):
        modules |= _conv_block(_level(level), f"encoder.stages.{level}.1.convs")
        modules[f"{_level(level)}.identity"] = f"encoder.stages.{level}.1.shortcut"
    for index in range(n_stages - 1):  # of our decoder: lowest resolution first, theirs counts the other way
        theirs = n_stages - index
        modules[f"Up{theirs}.up.0.1"] = f"decoder.upsamplings.{index}.1.0"
        modules[f"Up{theirs}.up.1.0"] = f"decoder.upsamplings.{index}.1.1"
        modules |= _conv_block(f"Up_conv{theirs}", f"decoder.stages.{index}.convs")
        modules[f"Up_conv{theirs}.identity"] = f"decoder.stages.{index}.shortcut"
    return modules


def _ss3d_blocks(n_blocks: int) -> dict[str, str]:
    modules = {}
    for i in range(n_blocks):
        theirs, ours = f"bottleneck.blocks.{i}", f"bottleneck.blocks.{i}"
        modules[f"{theirs}.ln_1"] = f"{ours}.norm1"
        modules[f"{theirs}.ln_2"] = f"{ours}.norm2"
        modules[f"{theirs}.mlp.net.0"] = f"{ours}.mlp.0"
        modules[f"{theirs}.mlp.net.3"] = f"{ours}.mlp.3"
        modules[f"{theirs}.self_attention.conv3d"] = f"{ours}.mixer.depthwise_conv.conv"
        for part in ("ssm", "in_proj", "out_norm", "out_proj"):
            modules[f"{theirs}.self_attention.{part}"] = f"{ours}.mixer.{part}"
    return modules


def _transformer_blocks(n_blocks: int) -> dict[str, str]:
    modules = {"bottleneck.position_encoding": "bottleneck.position_embedding"}
    for i in range(n_blocks):
        attention, mlp = (f"bottleneck.transformer.net.{2 * i + branch}.fn" for branch in (0, 1))
        ours = f"bottleneck.blocks.{i}"
        modules[f"{attention}.norm"] = f"{ours}.norm1"
        modules[f"{attention}.fn.qkv"] = f"{ours}.mixer.qkv"
        modules[f"{attention}.fn.proj"] = f"{ours}.mixer.proj"
        modules[f"{mlp}.norm"] = f"{ours}.norm2"
        modules[f"{mlp}.fn.net.0"] = f"{ours}.mlp.0"
        modules[f"{mlp}.fn.net.3"] = f"{ours}.mlp.3"
    return modules
