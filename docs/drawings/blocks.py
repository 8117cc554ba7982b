"""What the blocks of the networks do: gate, Mamba layer, SS3D, uncertainty, learned functions, self-distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunetv2_mamba.architectures.msd_kmamba.kan.basis import bspline_basis
from nnunetv2_mamba.architectures.msd_kmamba.kan.rational import IDENTITY, SILU, GroupRational
from nnunetv2_mamba.architectures.segmamba.feature_uncertainty import FeatureLevelUncertaintyEstimation

from .plot import Plot
from .svg import Drawing

_GAP = 20  # pixels of an arrow between two boxes


def gate() -> Drawing:
    """SegMamba's gated spatial convolution."""
    picture = Drawing("Gated spatial convolution: two 3-wide convolutions beside a 1-wide one, joined, and added to x")
    conv = "instance norm, ReLU"
    picture.text(188, 18, "x", "middle", "bold")
    picture.arrow([(188, 22), (188, 32), (96, 32), (96, 46)])
    picture.arrow([(188, 32), (268, 32), (268, 46)])
    left = _chain(picture, 16, 46, 160, [(("convolution, 3 wide", conv), "conv")] * 2)
    right = picture.box(192, 46, 152, ("convolution, 1 wide", conv), "conv")
    joined = left + 30
    picture.circle(188, joined, "+")
    picture.arrow([(96, left), (96, joined), (179, joined)])
    picture.arrow([(268, right), (268, joined), (197, joined)])
    picture.text(196, joined + 22, "code: +, paper: ×")
    picture.arrow([(188, joined + 9), (188, joined + 34)])
    fused = picture.box(108, joined + 34, 160, ("convolution, 1 wide", conv), "conv")
    _residual(picture, 188, 32, fused, side=360)
    return picture


def mamba_layer() -> Drawing:
    """A Mamba layer over the voxels of a grid."""
    picture = Drawing("Mamba layer: norm, projection, causal convolution and selective scan along each path, sum, gate")
    picture.text(130, 18, "voxels as tokens, C wide", "middle", "bold")
    picture.arrow([(130, 22), (130, 44)])
    y = _chain(picture, 30, 44, 200, [(("LayerNorm",), "plain"), (("linear: C to 2 × 2C",), "conv")])
    picture.text(146, y + 15, "x")
    picture.text(302, y + 15, "z")
    picture.arrow([(130, y), (130, y + _GAP)])
    picture.line([(230, y - 12), (295, y - 12), (295, y + _GAP)], "line thick")
    scan = ("selective scan", "h ← exp(Δ A) h + Δ B x,  y = C h + D x", "Δ, B, C: computed from x")
    top = y + _GAP
    for shift in (8, 4, 0):  # one for each path
        picture.box(12 + shift, top + shift, 236, ("causal convolution, SiLU",), "conv")
    lower = top + 24
    picture.arrow([(130, lower), (130, lower + _GAP)])
    for shift in (8, 4, 0):
        end = picture.box(12 + shift, lower + _GAP + shift, 236, scan, "mamba")
    picture.text(12, end + 24, "one each per path")
    picture.arrow([(130, end), (130, end + 29)])
    picture.circle(130, end + 38, "+")
    picture.arrow([(130, end + 47), (130, end + 66)])
    picture.circle(130, end + 75, "×")
    picture.box(262, top, 66, ("SiLU",), "plain")
    picture.arrow([(295, top + 24), (295, end + 75), (139, end + 75)])
    picture.arrow([(130, end + 84), (130, end + 104)])
    last = picture.box(30, end + 104, 200, ("linear: 2C to C",), "conv")
    _residual(picture, 130, 32, last, side=356)
    picture.text(20, last + 34, "not in U-Mamba")
    return picture


def vss3d() -> Drawing:
    """MedSegMamba's block."""
    picture = Drawing("VSS3D block: LayerNorm, SS3D and a residual; LayerNorm, MLP and a residual")
    picture.text(170, 18, "tokens of the bottleneck, C wide", "middle", "bold")
    picture.arrow([(170, 22), (170, 44)])
    steps = [
        (("LayerNorm",), "plain"),
        (("linear: C to C",), "conv"),
        (("depthwise convolution, SiLU",), "conv"),
        (("selective scans, summed", "8 serpentines; six orientations take", "turns from block to block"), "mamba"),
        (("LayerNorm",), "plain"),
        (("linear: C to C",), "conv"),
    ]
    end = _chain(picture, 50, 44, 240, steps)
    below = _residual(picture, 170, 32, end, side=330, out=_GAP + 12)
    mlp = [(("LayerNorm",), "plain"), (("MLP: linear, GELU, linear",), "conv")]
    end = _chain(picture, 50, below, 240, mlp)
    _residual(picture, 170, below - 12, end, side=330)
    return picture


def uncertainty() -> Drawing:
    """SegMamba's feature-level uncertainty estimation."""
    picture = Drawing("Feature-level uncertainty estimation: the factor of the features over their mean")
    picture.text(10, 20, "FUE: features z times 2 − u,  u = −p ln p,", style="bold")
    picture.text(10, 36, "p = sigmoid(mean of z over its channels)", style="bold")
    scale = FeatureLevelUncertaintyEstimation()
    means = torch.linspace(-8, 8, 81)
    factors = torch.stack([scale(m.view(1, 1, 1)).squeeze() / m for m in torch.where(means == 0, 1e-6, means)])
    plot = Plot(picture, 48, 54, 300, 150, (-8, 8), (1.5, 2.1))
    plot.axes(range(-8, 9, 4), (1.6, 1.8, 2.0), "mean of the features at a voxel")
    plot.curve(means.tolist(), factors.tolist(), "first")
    picture.text(plot.x(-3.4), plot.y(1.58), "factor 2 − u", style="small")
    picture.text(plot.x(1.6), plot.y(1.72), "sure: nearly doubled")
    return picture


def learned_functions() -> Drawing:
    """MSD-KMamba's KAN block, and the functions that it starts with."""
    picture = Drawing("KAN block: rational functions and 1-wide convolutions in turn; the functions at the start")
    picture.text(96, 18, "features u, C wide", "middle", "bold")
    picture.arrow([(96, 22), (96, 44)])
    steps = [
        (("instance norm",), "plain"),
        (("functions R₁",), "kan"),
        (("1 wide: C to 2C",), "conv"),
        (("functions R₂",), "kan"),
        (("1 wide: 2C to C",), "conv"),
        (("× γ, at first 0.01",), "plain"),
    ]
    end = _chain(picture, 26, 44, 140, steps)
    _residual(picture, 96, 32, end, side=184)
    x = torch.linspace(-4, 4, 65)
    plot = Plot(picture, 222, 44, 140, 108, (-4, 4), (-4, 4.5))
    plot.axes((-4, 0, 4), (-4, 0, 4), "")
    for start, curve in ((IDENTITY, "first"), (SILU, "second")):
        function = GroupRational(8, start)
        with torch.no_grad():
            plot.curve(x.tolist(), function(x.repeat(8, 1)[None])[0, 0].tolist(), curve)
    picture.text(222, 36, "at the start, then learned:")
    picture.text(plot.x(-3.8), plot.y(3.4), "R₂: SiLU")
    picture.text(plot.x(0.3), plot.y(-2.4), "R₁: identity")
    plot = Plot(picture, 222, 216, 140, 84, (-5.4, 5.4), (0, 0.75))
    plot.axes((-4, 0, 4), (0, 0.5), "")
    picture.text(222, 208, "B-splines, kan='bspline':")
    wide = torch.linspace(-5.4, 5.4, 109)
    for index, basis in enumerate(bspline_basis(wide)):
        plot.curve(wide.tolist(), basis.tolist(), ("first", "second", "third")[index % 3])
    return picture


def distillation() -> Drawing:
    """MSD-KMamba's self-distillation."""
    picture = Drawing(
        "Self-distillation: the head at full resolution teaches those of lower resolutions through a gate"
    )
    picture.text(10, 20, "Heads of the decoder while training", style="bold")
    rows = (("full resolution", "teacher: z₀"), ("1/2", "student: z₁"), ("1/4", "student: z₂"))
    for index, (scale, head) in enumerate(rows):
        y = 38 + 104 * index
        picture.box(8, y, 104, ("decoder", scale), "conv")
        picture.arrow([(112, y + 20), (130, y + 20)])
        picture.box(130, y, 96, ("head", head), "plain")
        picture.arrow([(226, y + 20), (262, y + 20)])
        picture.box(262, y, 106, ("labels", "Dice + CE, × w"), "loss")
        if index:
            picture.arrow([(60, y), (60, y - 65)])
            picture.arrow([(178, y), (178, y - 22)], "line thick")
            picture.box(130, y - 46, 96, (f"gate × KL{'₁₂'[index - 1]}",), "loss")
            picture.arrow([(245, y - 34), (226, y - 34)], "line thick dashed")
    picture.line([(226, 64), (245, 64), (245, 38 + 208 - 34)], "line thick dashed")
    y = 38 + 2 * 104 + 62
    picture.text(10, y, "Dashed: softmax(z₀ / τ), averaged, without a gradient.")
    picture.text(10, y + 16, "Gate: a voxel teaches only as far as the teacher is nearer")
    picture.text(10, y + 32, "to the label than the student.")
    picture.text(10, y + 48, "And so on downwards; the lowest head has weight 0.")
    return picture


def _chain(picture: Drawing, x: float, y: float, width: float, steps: Sequence[tuple[Sequence[str], str]]) -> float:
    """Draw boxes below each other, joined by arrows; return the lower edge of the last."""
    for index, (lines, kind) in enumerate(steps):
        if index:
            picture.arrow([(x + width / 2, y), (x + width / 2, y + _GAP)])
            y += _GAP
        y = picture.box(x, y, width, lines, kind)
    return y


def _residual(picture: Drawing, x: float, start: float, end: float, side: float, out: float = _GAP) -> float:
    """Draw what goes around the boxes above ``end`` and is added to what they give; return where the sum arrives."""
    place = end + _GAP + 9
    picture.arrow([(x, end), (x, place - 9)])
    picture.circle(x, place, "+")
    picture.arrow([(x, start), (side, start), (side, place), (x + 9, place)])
    picture.arrow([(x, place + 9), (x, place + 9 + out)])
    return place + 9 + out


PICTURES = {
    "gate": gate,
    "mamba_layer": mamba_layer,
    "vss3d": vss3d,
    "uncertainty": uncertainty,
    "learned_functions": learned_functions,
    "distillation": distillation,
}
