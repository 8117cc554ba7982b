"""Our networks with the weights of the golden files, and which of our modules is which of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from golden_files import GoldenFile
from torch import Tensor, nn

from nnunetv2_mamba.architectures import MedSegMamba
from nnunetv2_mamba.architectures.medsegmamba import released_weights as medsegmamba
from nnunetv2_mamba.architectures.released_weights import build_from_released
from nnunetv2_mamba.architectures.released_weights.mamba import stack_directions
from nnunetv2_mamba.architectures.released_weights.state import load_strictly, rename_modules
from nnunetv2_mamba.architectures.segmamba.released_weights import TOM_DIRECTIONS

SEGMAMBA = (
    {"vit.downsample_layers.0": "encoder.stages.0.downsample", "vit.stages.0.0": "encoder.stages.0.tom_layers.0"}
    | {f"vit.gscs.{i}": f"encoder.stages.{i}.gated_conv" for i in range(4)}
    | {f"vit.stages.{i}": f"encoder.stages.{i}.tom_layers" for i in range(4)}
    | {f"vit.mlps.{i}": f"encoder.stages.{i}.skip_mlp" for i in range(4)}
    | {"encoder1": "encoder.skip_blocks.0", "encoder5": "encoder.skip_blocks.4"}
    | {"decoder5": "decoder.stages.0", "decoder4": "decoder.stages.1"}
    | {"decoder2": "decoder.stages.3.0", "decoder1": "decoder.stages.3.1"}
)
MEDSEGMAMBA = {
    "Conv1": "encoder.stages.0",
    "downconv3": "encoder.stages.3",
    "expand": "bottleneck.expand",
    "pre_head_ln": "bottleneck.norm",
    "compress": "bottleneck.compress",
    "Up4": "decoder.upsamplings.0",
    "Up_conv4": "decoder.stages.0",
    "Up_conv2": "decoder.stages.2",
    "Conv_1x1": "decoder.seg_layers.0",
} | {f"bottleneck.blocks.{i}": f"bottleneck.blocks.{i}" for i in range(7)}
UMAMBA = {"encoder.stem": "encoder.stem", "mamba_layer": "encoder.mamba_layers.3"} | {
    name: name
    for name in [f"encoder.{part}.{i}" for part in ("stages", "mamba_layers") for i in range(4)]
    + [f"decoder.stages.{i}" for i in range(3)]
}
UMAMBA2 = {
    name: name
    for name in ["encoder.stem", "mamba_layer"]
    + [f"encoder.stages.{i}" for i in range(4)]
    + [f"decoder.stages.{i}" for i in range(3)]
}


@dataclass
class Released:
    """A file, the names of its logits (highest resolution first), and its modules under their and our names."""

    file: str
    logits: tuple[str, ...]
    modules: Mapping[str, str]
    options: Mapping = field(default_factory=dict)

    def load(self) -> GoldenFile:
        return GoldenFile(self.file)

    def build(self, golden: GoldenFile, state: dict[str, Tensor] | None = None) -> nn.Module:
        """Our network with ``state``, which has the released code's names; default: the file's weights."""
        state = golden.state_dict() if state is None else state
        config = golden.config
        if self.file.startswith("umamba"):
            return build_from_released(state, strides=config["strides"], patch_size=config.get("input_size"))
        return segmambabot(state) if self.file == "segmambabot" else build_from_released(state, **self.options)


RELEASED = {
    released.file: released
    for released in (
        Released("segmamba", ("output",), SEGMAMBA),
        Released("segmamba_without_residual", ("output",), {}, {"tom_residual": False}),
        Released("medsegmamba", ("Conv_1x1",), MEDSEGMAMBA),
        Released("tabsurfer", ("Conv_1x1",), MEDSEGMAMBA),
        Released("segmambabot", ("logits",), MEDSEGMAMBA),
        *(
            Released(f"umamba_{variant}", ("head 0", "head 1", "head 2"), UMAMBA)
            for variant in ("bot_3d", "bot_2d", "enc_3d", "enc_2d")
        ),
        *(Released(f"umamba2_{dims}", ("head 0", "head 1", "head 2"), UMAMBA2) for dims in ("3d", "2d")),
    )
}


def segmambabot(state: dict[str, Tensor]) -> MedSegMamba:
    """Its weights were never released, so ``build_from_released`` does not know them."""
    state = dict(state)
    modules = medsegmamba._convolutions(4)
    blocks = range(medsegmamba.count(state, "bottleneck.blocks.{}.ln_1.weight"))
    for i in blocks:
        block = f"bottleneck.blocks.{i}"
        stack_directions(state, f"{block}.self_attention.", TOM_DIRECTIONS)
        modules |= {f"{block}.ln_{j}": f"{block}.norm{j}" for j in (1, 2)}
        modules |= {f"{block}.mlp.net.{j}": f"{block}.mlp.{j}" for j in (0, 3)}
        for part in ("", ".ssm", ".in_proj", ".out_proj"):
            modules[f"{block}.self_attention{part}"] = f"{block}.mixer{part}"
    width = state["expand.weight"].shape[0]
    network = MedSegMamba(
        1, 4, (8, 16, 32, 64), nn.Conv3d, 3, [1, 2, 2, 2], 3, bottleneck="tom", bottleneck_channels=width,
        n_bottleneck_blocks=len(blocks), dropout=0.0, drop_path=0.0,
    )  # fmt: skip
    load_strictly(network, rename_modules(state, modules))
    return network


def features(network: nn.Module, modules: Mapping[str, str], names: list[str]) -> dict[str, Tensor]:
    """A dictionary to be filled, by the next forward pass, with what the modules of these (their) names give."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        # the first time only: checkpointing may run a module again; and a copy, as activations work in place
        return lambda _module, _input, output: seen.setdefault(name, output.detach().clone())

    ours = dict(network.named_modules())
    for name in names:
        if name in modules:
            ours[modules[name]].register_forward_hook(keep(name))
    return seen


def per_released_parameter(released: Released, golden: GoldenFile, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Norm of the gradient of each of the released code's parameters, and its product with their probes.

    Our parameters hold theirs in another order and stacked; loading is a rearrangement, so it tells where each one is.
    """
    shapes = golden.description["parameters"]
    tables = {key: value for key, value in golden.state_dict().items() if key not in shapes}
    numbered = {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}
    probes = {name: golden.probe(name, shape).float() for name, shape in shapes.items()}
    owners, directions = (released.build(golden, state | tables) for state in (numbered, probes))
    squares, products = torch.zeros(2, len(shapes), dtype=torch.float64)
    for (_, ours), owner, direction in zip(
        network.named_parameters(), owners.parameters(), directions.parameters(), strict=True
    ):
        owner, gradient = owner.detach().long().flatten(), ours.grad.double().flatten()
        squares += torch.bincount(owner, gradient**2, len(shapes))
        products += torch.bincount(owner, gradient * direction.detach().double().flatten(), len(shapes))
    return squares.sqrt(), products
