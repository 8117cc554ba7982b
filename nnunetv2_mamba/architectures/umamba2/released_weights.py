"""U-Mamba2's released key names to ours."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op

from ..released_weights.mamba import MAMBA2, stack_directions
from ..released_weights.state import State, count, drop_copies, first_name, load_strictly, rename_modules, shape_of
from .network import UMamba2

LAYER = "mamba_layer.mamba"


def build_umamba2(state: State, strides: Sequence[Sequence[int]] | None) -> UMamba2:
    """Build and load; see :func:`build_from_released`."""
    drop_copies(state)
    n_stages = count(state, "encoder.stages.{}.blocks.0.conv1.conv.weight")
    first = [f"encoder.stages.{i}.blocks.0.conv1.conv.weight" for i in range(n_stages)]
    kernels = [tuple(shape_of(state, key)[2:]) for key in first]
    # The transposed convolutions, deepest first, have kernels as large as their strides.
    upsamplings = [tuple(shape_of(state, f"decoder.transpconvs.{i}.weight")[2:]) for i in range(n_stages - 1)]
    _, input_channels, *stem_kernel = shape_of(state, "encoder.stem.convs.0.conv.weight", 4, 5)
    dims = len(stem_kernel)
    own_strides = [(1,) * dims, *reversed(upsamplings)]
    if strides is not None and [tuple(stride) for stride in strides] != own_strides:
        raise ValueError(f"the weights have the strides {own_strides}, but the plan says {list(strides)}")
    channels, inner = shape_of(state, f"{LAYER}.out_proj.weight", 2)
    (heads,) = shape_of(state, f"{LAYER}.dt_bias", 1)
    network = UMamba2(
        input_channels=input_channels,
        n_stages=n_stages,
        features_per_stage=[shape_of(state, key)[0] for key in first],
        conv_op=convert_dim_to_conv_op(dims),
        kernel_sizes=kernels,
        strides=own_strides,
        num_classes=shape_of(state, "decoder.seg_layers.0.weight")[0],
        deep_supervision=True,
        n_blocks_per_stage=[count(state, f"encoder.stages.{i}.blocks.{{}}.conv1.conv.weight") for i in range(n_stages)],
        n_conv_per_stage_decoder=[
            count(state, f"decoder.stages.{i}.convs.{{}}.conv.weight") for i in range(n_stages - 1)
        ],
        conv_bias="encoder.stem.convs.0.conv.bias" in state,
        d_state=(shape_of(state, f"{LAYER}.conv1d.weight")[0] - inner) // 2,
        headdim=inner // heads,
        expand=inner // channels,
    )
    stack_directions(state, f"{LAYER}.", names=MAMBA2)
    modules = {f"decoder.transpconvs.{i}": f"decoder.upsamplings.{i}" for i in range(n_stages - 1)}
    for i in range(n_stages - 1):  # theirs count the heads from the lowest resolution
        modules[f"decoder.seg_layers.{i}"] = f"decoder.seg_layers.{n_stages - 2 - i}"
    state = rename_modules(state, modules)
    for key in network.state_dict():  # our blocks have the layers' second names, too
        original = first_name(key)
        if original in state:
            state[key] = state[original]
    load_strictly(network, state)
    return network
