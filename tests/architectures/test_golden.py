"""Outputs of the authors' released code, reproduced: the slices that are part of this repository.

Both sides compute in float64, so nothing is left to the rounding of a build of torch: what separates them is that the
samples in the files are rounded to float32 (by 6e-8 at most), and that our blocks make A of its logarithm in float32.
Mistakes, of which a test here makes some, are a thousand times over the limit and more.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comparison import assert_close, difference
from dynamic_network_architectures.building_blocks.regularization import DropPath
from golden_files import GoldenFile
from golden_networks import RELEASED, features, per_released_parameter
from torch import nn

from nnunetv2_mamba.architectures.blocks.decoder import upsampled_first
from nnunetv2_mamba.architectures.blocks.mixers import sequence_mixer
from nnunetv2_mamba.architectures.blocks.scan_paths import PATHS
from nnunetv2_mamba.architectures.blocks.tokens import to_tokens, to_volume
from nnunetv2_mamba.architectures.medsegmamba import released_weights as medsegmamba
from nnunetv2_mamba.architectures.medsegmamba.ss3d import SS3D
from nnunetv2_mamba.architectures.released_weights.mamba import MAMBA, MAMBA2, stack_directions
from nnunetv2_mamba.architectures.released_weights.state import rename_modules
from nnunetv2_mamba.ops import scan_order

LIMIT = 5e-7
# fp32 itself: convolutions, norms over few voxels and scans make 3e-7 to 1e-5 of its 6e-8, by network and torch's build
LIMIT_FP32 = 1e-4

WITH_GRADIENTS = [name for name in RELEASED if name != "segmamba_without_residual"]
WITH_RATES = ("medsegmamba",)  # the released defaults, which are ours


def as_list(logits):
    return logits if isinstance(logits, list) else [logits]


@pytest.mark.parametrize("name", RELEASED)
def test_network(name):
    """Logits at all resolutions, the features on the way, and logits in fp32 as networks are used."""
    released, golden = RELEASED[name], RELEASED[name].load()
    network = released.build(golden).double().eval()
    seen = features(network, released.modules, golden.outputs)
    with torch.no_grad():
        logits = as_list(network(golden.input()))
        in_fp32 = as_list(released.build(golden).eval()(golden.input().float()))
    seen |= dict(zip(released.logits, logits, strict=True))
    assert len(seen) > 3 or not released.modules
    if "probabilities" in golden.outputs:  # of the released MedSegMamba, which ends in a softmax
        seen["probabilities"] = logits[0].softmax(1)
    for output, tensor in seen.items():
        assert_close(golden.samples_of(output, tensor), golden.expected(output), LIMIT)
    for output, tensor in zip(released.logits, in_fp32, strict=True):
        assert_close(golden.samples_of(output, tensor), golden.expected(output), LIMIT_FP32)


def without_rates(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_training(name, monkeypatch):
    """In training mode: logits, the gradient of the input and that of each of the released code's parameters.

    For what is drawn at random, here as in the released code's run, numbers stand in: dropout multiplies by 1 - p,
    stochastic depth by (1 - p)².
    """
    released, golden = RELEASED[name], RELEASED[name].load()
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x * (1 - self.p))
    monkeypatch.setattr(DropPath, "forward", lambda self, x: x * (1 - self.drop_prob) ** 2)
    network = released.build(golden).double().train()
    if name not in WITH_RATES:
        without_rates(network)
    x = golden.input().requires_grad_()
    logits = as_list(network(x))
    sum((head * golden.probe(f"head {i}", head.shape)).sum() for i, head in enumerate(logits)).backward()
    outputs = ("logits in training",) if "logits in training" in golden.outputs else released.logits
    for output, tensor in zip(outputs, logits, strict=True):
        assert_close(golden.samples_of(output, tensor), golden.expected(output), LIMIT)
    gradient = "gradient of the input"
    assert_close(golden.samples_of(gradient, x.grad), golden.expected(gradient), LIMIT)
    norms, products = per_released_parameter(released, golden, network)
    expected = golden.array("gradient_norms")
    # biases before a norm that is not affine have none but rounding
    assert ((norms - expected).abs() <= LIMIT * expected + 1e-10 * expected.max()).all()
    sizes = torch.tensor([golden.probe(*item).norm() for item in golden.description["parameters"].items()])
    along = (products - golden.array("gradients_along_probe")).abs()
    assert (along <= LIMIT * expected * sizes + 1e-10 * expected.max()).all()


def one_orientation(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network.bottleneck.blocks[3].mixer.scan = "ss3d_0"


def skip_last(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network.decoder.join = upsampled_first


def no_residual(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network.encoder.stages[3].tom_layers[0].residual = False


def slices_along_the_raster(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def paths(shape, device):
        right = scan_order.tri_oriented(shape, device)
        return right[[0, 1, 0]].contiguous()

    monkeypatch.setitem(PATHS, "tri_oriented", SimpleNamespace(table=paths))


def half_as_many_slices(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the released code where a patch is not 128 deep: a wrong number of slices."""

    def paths(shape, device):
        right = scan_order.tri_oriented(shape, device)
        length, slices = right.shape[1], max(shape[0] // 2, 1)
        wrong = torch.arange(length, dtype=torch.int32).view(slices, -1).T.reshape(1, -1)
        return torch.cat([right[:2], wrong])

    monkeypatch.setitem(PATHS, "tri_oriented", SimpleNamespace(table=paths))


def mamba_with_residual(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network.encoder.mamba_layers[-1].register_forward_hook(lambda _module, inputs, output: output + inputs[0])


def mamba2_with_residual(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network.mamba_layer.register_forward_hook(lambda _module, inputs, output: output + inputs[0])


def norm_before_the_gate(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    block = network.mamba_layer.mamba
    scan = block.ssd.forward
    norm = block.norm

    def gated_after(u, delta, B, C, paths, z):
        return norm(scan(u, delta, B, C, paths)) * nn.functional.silu(z)

    monkeypatch.setattr(block.ssd, "forward", gated_after)
    block.norm = nn.Identity()


def linear_upsampling(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    network.decoder.upsamplings[0][0].mode = "bilinear"


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("medsegmamba", one_orientation),
        ("medsegmamba", skip_last),
        ("segmamba", no_residual),
        ("segmamba", slices_along_the_raster),
        ("segmamba", half_as_many_slices),
        ("umamba_enc_2d", mamba_with_residual),
        ("umamba_bot_2d", linear_upsampling),
        ("umamba2_2d", mamba2_with_residual),
        ("umamba2_2d", norm_before_the_gate),
    ],
)
def test_mistakes_are_far_over_the_limit(name, mistake, monkeypatch):
    released, golden = RELEASED[name], RELEASED[name].load()
    network = released.build(golden).double().eval()
    mistake(network, monkeypatch)
    with torch.no_grad():
        logits = as_list(network(golden.input()))[0]
    output = released.logits[0]
    assert difference(golden.samples_of(output, logits), golden.expected(output)) > 1000 * LIMIT


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("orientation", range(6))
def test_ss3d(orientation, size):
    golden = GoldenFile("ss3d")
    prefix = "bottleneck.blocks.0.self_attention"
    state = {f"{prefix}.{key}": value for key, value in golden.state_dict().items()}
    medsegmamba._stack_directions(state, 1)
    names = {f"{prefix}.{part}": part for part in ("ssm", "in_proj", "out_norm", "out_proj")}
    module = SS3D(16, nn.Conv3d, (3, 3, 3), f"ss3d_{orientation}", d_state=4)
    module.load_state_dict(rename_modules(state, names | {f"{prefix}.conv3d": "depthwise_conv.conv"}))
    name = f"size {size}, orientation {orientation}"
    with torch.no_grad():
        output = module.double()(golden.input(f"size {size}").flatten(1, 3), (size,) * 3)
    assert_close(golden.samples_of(name, output), golden.expected(name), LIMIT)


@pytest.mark.parametrize(
    ("mixer", "names", "options"), [("mamba", MAMBA, {}), ("mamba2", MAMBA2, {"d_state": 16, "headdim": 12})]
)
def test_official_blocks_are_the_unidirectional_case(mixer, names, options):
    golden = GoldenFile("mamba1" if mixer == "mamba" else mixer)
    state = golden.state_dict()
    stack_directions(state, "", names=names)
    mamba = sequence_mixer(mixer, 24, nn.Conv3d, scan="unidirectional", **options)
    mamba.load_state_dict(state)
    x = golden.input().requires_grad_()
    output = mamba.double()(x, (37, 1, 1))
    (output * golden.probe("head 0", output.shape)).sum().backward()
    for name, tensor in (("output", output), ("gradient of the input", x.grad)):
        assert_close(golden.samples_of(name, tensor), golden.expected(name), LIMIT)


def test_tokens_are_the_raster_of_the_grid():
    volume = torch.arange(2 * 3 * 4 * 5 * 6.0).view(2, 3, 4, 5, 6)
    tokens = to_tokens(volume)
    assert tokens[1, (1 * 5 + 2) * 6 + 3, 2] == volume[1, 2, 1, 2, 3]
    assert torch.equal(to_volume(tokens, (4, 5, 6)), volume)
