"""The networks, drawn from what flows through the real ones when a plan of nnU-Net is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.architectures.contract import PlannedNetwork
from nnunetv2_mamba.architectures.registry import NETWORKS

from .svg import LINE, WIDTH, Drawing

# nnU-Net's plan for BraTS: four images, patches of 128 voxels, axes halved down to 4 or as often as the network does.
IMAGES, CLASSES, PATCH, MOST_HALVINGS = 4, 4, (128, 128, 128), 5
_LEVEL = 3 * LINE + 9 + 20  # pixels from level to level
_TOP = 88


class Part(NamedTuple):
    """A box: what its modules make together.

    Attributes:
        modules: their names in the network; the last one's output is what flows on.
        title: what they are.
        kind: of the box.
        column, level: where it stands; levels are counted from full resolution.
    """

    modules: Sequence[str]
    title: str
    kind: str
    column: int
    level: int


def drawing(name: str) -> Drawing:
    """Draw the registered network of this name for the plan above."""
    network, shapes = trace(name)
    boxes = list(parts(name, network))
    columns = max(part.column for part in boxes) + 1
    picture = Drawing(f"{name}: the parts of the network, with the sizes of what they make")
    total = sum(parameter.numel() for parameter in network.parameters())
    picture.text(10, 20, f"{name}: {_millions(total)} parameters", style="bold")
    picture.text(10, 36, f"{IMAGES} images, patch {_times(PATCH)}, {CLASSES} classes")
    picture.text(10, 52, "Below a name: what it puts out, parameters. Orange: scans.")
    gap, outer = 18, 6
    width = (WIDTH - 2 * outer - (columns - 1) * gap) / columns

    def left(column: int) -> float:
        return outer + column * (width + gap)

    lowest = max(part.level for part in boxes)
    for part in boxes:
        x, y = left(part.column), _TOP + part.level * _LEVEL
        weights = sum(p.numel() for m in part.modules for p in network.get_submodule(m).parameters())
        lower = picture.box(x, y, width, [part.title, shapes[part.modules[-1]], _millions(weights)], part.kind)
        if part.column and any((part.column - 1, part.level) == (other.column, other.level) for other in boxes):
            picture.arrow([(x - gap, y + 27), (x, y + 27)])
        middle = x + width / 2
        if part.column == 0 and part.level < lowest:
            picture.arrow([(middle, lower), (middle, y + _LEVEL)])
        elif part.column == columns - 1 and part.level:
            picture.arrow([(middle, y), (middle, y - _LEVEL + lower - y)])
        elif part.column == columns - 2 and part.level == lowest:  # nothing below the decoder: to it, and up
            x = left(columns - 1) + width / 2
            picture.arrow([(left(part.column) + width, y + 27), (x, y + 27), (x, y - _LEVEL + lower - y)])
    for column in range(columns - 1):  # the images
        level = min(part.level for part in boxes if part.column == column)
        middle = left(column) + width / 2
        if column == 0 or level == 0:
            picture.arrow([(middle, _TOP - 16), (middle, _TOP + level * _LEVEL)])
    x = left(columns - 1) + width / 2
    picture.arrow([(x, _TOP), (x, _TOP - 14)])
    picture.text(x, _TOP - 18, f"logits: {shapes['decoder.seg_layers.0']}", "middle")
    return picture


def parts(name: str, network: PlannedNetwork) -> Iterator[Part]:
    """Yield the boxes of a network; the logits' layer is none of them."""
    return _PARTS[name](network)


def trace(name: str) -> tuple[PlannedNetwork, Mapping[str, str]]:
    """Run the network on tensors without data; return it, and the shape of each module's first output, in words."""
    entry = NETWORKS[name]
    halvings = MOST_HALVINGS if entry.max_pool is None else min(entry.max_pool, MOST_HALVINGS)
    widths = entry.network_class.default_features(halvings + 1)
    options = {**entry.network_class.patch_options(PATCH, entry.options), **entry.options}
    shapes: dict[str, str] = {}
    with FakeTensorMode(), torch.no_grad():
        strides = [1] + [2] * halvings
        network = entry.network_class(IMAGES, halvings + 1, widths, nn.Conv3d, 3, strides, CLASSES, **options).eval()
        for module_name, module in network.named_modules():
            module.register_forward_hook(_recorder(module_name, shapes))
        network(torch.empty(1, IMAGES, *PATCH))
    return network, shapes


def _recorder(name: str, shapes: dict[str, str]) -> Callable:
    def record(module: nn.Module, inputs: tuple, output: torch.Tensor | Sequence[torch.Tensor]) -> None:
        tensor = output if isinstance(output, torch.Tensor) else output[0]
        _, *sizes = tensor.shape
        shapes[name] = f"{sizes[0]} tokens × {sizes[1]}" if len(sizes) == 2 else f"{sizes[0]} × {_times(sizes[1:])}"

    return record


def _times(sizes: Sequence[int]) -> str:
    return f"{sizes[0]}³" if len(sizes) == 3 and len(set(sizes)) == 1 else "×".join(map(str, sizes))


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 950_000 else f"{number / 1e6:.2g} M"


def _decoder(network: PlannedNetwork, column: int, blocks: str | None = None) -> Iterator[Part]:
    """The levels of a decoder; without words for their blocks, these are residual ones, and counted."""
    for index, stage in enumerate(network.decoder.stages):
        modules = [f"decoder.upsamplings.{index}", f"decoder.stages.{index}"]
        number = len(stage) if isinstance(stage, nn.Sequential) else 1
        level = len(network.decoder.stages) - 1 - index
        yield Part(modules, f"up, {blocks or f'{number} residual'}", "conv", column, level)


def _segmamba(network: PlannedNetwork) -> Iterator[Part]:
    yield Part(["encoder.skip_blocks.0"], "residual block", "conv", 1, 0)
    for index, stage in enumerate(network.encoder.stages):
        trunk, level = f"encoder.stages.{index}", index + 1
        title = f"GSC, {len(stage.tom_layers)} × ToM"
        yield Part([f"{trunk}.{name}" for name in ("downsample", "gated_conv", "tom_layers")], title, "mamba", 0, level)
        yield Part([f"{trunk}.skip_mlp", f"encoder.skip_blocks.{level}"], "MLP, residual", "conv", 1, level)
    yield from _decoder(network, 2)


def _medsegmamba(network: PlannedNetwork) -> Iterator[Part]:
    lowest = len(network.encoder.stages) - 1
    for index in range(lowest + 1):
        yield Part([f"encoder.stages.{index}"], "pool, residual block" if index else "residual block", "conv", 0, index)
    blocks = len(network.bottleneck.blocks)
    yield Part(
        ["bottleneck"], f"{blocks} × VSS3D, {network.bottleneck.norm.normalized_shape[0]} wide", "mamba", 1, lowest
    )
    yield from _decoder(network, 1, "residual block")


def _msd_kmamba(network: PlannedNetwork) -> Iterator[Part]:
    yield Part(["encoder.stem"], "2 convolutions", "conv", 0, 0)
    for index, stage in enumerate(network.encoder.stages):
        title = f"GSC, {len(stage.mamba_layers)} × Mamba, KAN"
        yield Part([f"encoder.stages.{index}"], title, "mamba", 0, index + 1)
    yield from _decoder(network, 1, "2 convolutions")


def _umamba(network: PlannedNetwork) -> Iterator[Part]:
    for level, (stage, layer) in enumerate(zip(network.encoder.stages, network.encoder.mamba_layers, strict=True)):
        blocks = len(stage) + (0 if level else len(network.encoder.stem))
        modules = ([] if level else ["encoder.stem"]) + [f"encoder.stages.{level}"]
        title, kind = f"{blocks} residual", "conv"
        if not isinstance(layer, nn.Identity):
            title, kind = f"{title}, Mamba", "mamba"
            modules.append(f"encoder.mamba_layers.{level}")
        yield Part(modules, title, kind, 0, level)
    yield from _decoder(network, 1)


def _umamba2(network: PlannedNetwork) -> Iterator[Part]:
    lowest = len(network.encoder.stages) - 1
    for level, stage in enumerate(network.encoder.stages):
        modules = ([] if level else ["encoder.stem"]) + [f"encoder.stages.{level}"]
        yield Part(modules, f"{'' if level else 'stem, '}{len(stage.blocks)} residual", "conv", 0, level)
    yield Part(["mamba_layer"], "Mamba-2", "mamba", 1, lowest)
    yield from _decoder(network, 1, "convolution")


_PARTS: dict[str, Callable[[PlannedNetwork], Iterator[Part]]] = {
    "SegMamba": _segmamba,
    "MedSegMamba": _medsegmamba,
    "MSDKMamba": _msd_kmamba,
    "UMambaBot": _umamba,
    "UMambaEnc": _umamba,
    "UMamba2": _umamba2,
}
NAMES = tuple(_PARTS)
