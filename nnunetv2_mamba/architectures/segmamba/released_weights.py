"""SegMamba's released key names to ours."""

from __future__ import annotations

from torch import nn

from ..released_weights.mamba import stack_directions
from ..released_weights.state import State, count, load_strictly, rename_modules, shape_of
from .network import SegMamba

TOM_DIRECTIONS = ("", "_b", "_s")  # forward, reverse, inter-slice: the order of scan_order.tri_oriented


def build_segmamba(state: State, tom_residual: bool) -> SegMamba:
    """Build and load; see :func:`build_from_released`."""
    if "vit.stages.0.0.mamba.A_s_log" not in state:
        raise ValueError(
            "this is a SegMamba checkpoint from before 26 March 2024 (no inter-slice direction, keys '*_s'): another "
            "network than the published one; it cannot be loaded"
        )
    n_trunk = count(state, "vit.gscs.{}.proj.weight")
    n_tom_layers = [count(state, f"vit.stages.{i}.{{}}.mamba.A_log") for i in range(n_trunk)]
    network = SegMamba(
        input_channels=shape_of(state, "vit.downsample_layers.0.0.weight", 5)[1],
        n_stages=n_trunk + 1,
        features_per_stage=[
            shape_of(state, f"encoder{level + 1}.layer.conv2.conv.weight")[0] for level in range(n_trunk + 1)
        ],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1] + [2] * n_trunk,
        num_classes=shape_of(state, "out.conv.conv.weight")[0],
        n_tom_layers_per_stage=n_tom_layers,
        tom_residual=tom_residual,
    )
    for i, layers in enumerate(n_tom_layers):
        for j in range(layers):
            stack_directions(state, f"vit.stages.{i}.{j}.mamba.", TOM_DIRECTIONS)
    load_strictly(network, rename_modules(state, _modules(n_trunk, n_tom_layers)))
    return network


def _modules(n_trunk: int, n_tom_layers: list[int]) -> dict[str, str]:
    """Return our module name for each of theirs."""
    modules = {"vit.downsample_layers.0.0": "encoder.stages.0.downsample"}
    for i in range(n_trunk):
        theirs, ours = f"vit.gscs.{i}", f"encoder.stages.{i}.gated_conv"
        modules[f"{theirs}.proj"] = f"{ours}.spatial1.0"
        modules[f"{theirs}.proj2"] = f"{ours}.spatial2.0"
        modules[f"{theirs}.proj3"] = f"{ours}.pointwise.0"
        modules[f"{theirs}.proj4"] = f"{ours}.fuse.0"
        modules[f"vit.downsample_layers.{i}.1"] = f"encoder.stages.{i}.downsample.1"
        modules[f"vit.mlps.{i}.fc1"] = f"encoder.stages.{i}.skip_mlp.1"
        modules[f"vit.mlps.{i}.fc2"] = f"encoder.stages.{i}.skip_mlp.3"
        for j in range(n_tom_layers[i]):
            for part in ("norm", "mamba", "mamba.ssm", "mamba.in_proj", "mamba.out_proj"):
                modules[f"vit.stages.{i}.{j}.{part}"] = f"encoder.stages.{i}.tom_layers.{j}.{part}"
    blocks = {f"encoder{level + 1}.layer": f"encoder.skip_blocks.{level}" for level in range(n_trunk + 1)}
    for index in range(n_trunk):  # of our decoder: lowest resolution first, theirs counts the other way
        theirs, full_resolution = f"decoder{n_trunk + 1 - index}", index == n_trunk - 1
        modules[f"{theirs}.transp_conv.conv"] = f"decoder.upsamplings.{index}"
        blocks[f"{theirs}.conv_block"] = f"decoder.stages.{index}" + (".0" if full_resolution else "")
    blocks["decoder1.layer"] = f"decoder.stages.{n_trunk - 1}.1"
    for theirs, ours in blocks.items():
        for conv, our_conv in (("conv1", "conv1"), ("conv2", "conv2"), ("conv3", "shortcut")):
            modules[f"{theirs}.{conv}.conv"] = f"{ours}.{our_conv}"
    modules["out.conv.conv"] = "decoder.seg_layers.0"
    return modules
