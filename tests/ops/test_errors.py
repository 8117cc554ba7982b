"""A wrong argument is named in the error, before anything is computed."""

import pytest
import torch
from scan_cases import make_case, make_ssd_case

from nnunetv2_mamba.ops import causal_conv1d, directional_scan, directional_ssd, selective_scan
from nnunetv2_mamba.ops.scan_order import bidirectional


def scan_arguments() -> dict:
    case = make_case(shared=False)
    return {**case.tensors, "paths": case.paths}


def ssd_arguments() -> dict:
    case = make_ssd_case(channels=6, shared=False)
    return {**case.tensors, "paths": case.paths}


def conv_arguments() -> dict:
    return {
        "x": torch.randn(2, 6, 3),
        "weight": torch.randn(2, 3, 4),
        "bias": torch.randn(2, 3),
        "paths": bidirectional((6,)),
    }


def sequence_arguments() -> dict:
    shapes = {
        "u": (2, 4, 9),
        "delta": (2, 4, 9),
        "A": (4, 3),
        "B": (2, 2, 3, 9),
        "C": (2, 2, 3, 9),
        "D": (4,),
        "z": (2, 4, 9),
    }
    return {**{name: torch.randn(shape) for name, shape in shapes.items()}, "delta_bias": torch.randn(4)}


OPS = [
    (directional_scan, scan_arguments),
    (directional_ssd, ssd_arguments),
    (causal_conv1d, conv_arguments),
    (selective_scan, sequence_arguments),
]
EVERY_ARGUMENT = [
    pytest.param(op, arguments, name, id=f"{op.__name__}-{name}") for op, arguments in OPS for name in arguments()
]
# These set the sizes that the others are held to, so the other one is named.
_SIZES_FROM = {"u": "u|delta|A", "x": "x|weight", "paths": "u|x", "A": "A|B", "B": "B|C", "C": "C|B"}


@pytest.mark.parametrize(("op", "arguments", "name"), EVERY_ARGUMENT)
def test_shape(op, arguments, name):
    wrong = arguments()
    wrong[name] = torch.cat([wrong[name]] * 2, dim=min(1, wrong[name].ndim - 1))
    with pytest.raises(ValueError, match=rf"^({_SIZES_FROM.get(name, name)}) must have"):
        op(**wrong)


@pytest.mark.parametrize(("op", "arguments", "name"), EVERY_ARGUMENT)
def test_number_of_axes(op, arguments, name):
    wrong = arguments()
    wrong[name] = wrong[name][None, None]
    with pytest.raises(ValueError, match=rf"^{name} must have shape \("):
        op(**wrong)


@pytest.mark.parametrize(("op", "arguments", "name"), EVERY_ARGUMENT)
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_dtype(op, arguments, name, dtype):
    wrong = arguments()
    wrong[name] = wrong[name].detach().to(dtype)
    with pytest.raises(TypeError, match=f"^{name} must be"):
        op(**wrong)


@pytest.mark.parametrize(("op", "arguments", "name"), EVERY_ARGUMENT)
def test_no_tensor(op, arguments, name):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        op(**{**arguments(), name: [1.0]})


@pytest.mark.parametrize(("op", "arguments"), OPS)
def test_a_sparse_tensor(op, arguments):
    wrong = arguments()
    first = next(iter(wrong))
    wrong[first] = wrong[first].detach().to_sparse()
    with pytest.raises(TypeError, match=f"^{first} must be a dense tensor"):
        op(**wrong)


@pytest.mark.parametrize(
    ("op", "arguments", "name"),
    [p for p in EVERY_ARGUMENT if not p.id.endswith(("-u", "-x"))],  # theirs is the device
)
def test_device(op, arguments, name):
    wrong = arguments()
    wrong[name] = wrong[name].to("meta")
    with pytest.raises(ValueError, match=f"^{name} must be on the device"):
        op(**wrong)


@pytest.mark.parametrize(("op", "arguments"), OPS[:2])
@pytest.mark.parametrize("token", [-1, 10_000])
def test_a_token_outside_the_grid(op, arguments, token):
    wrong = arguments()
    wrong["paths"] = wrong["paths"].clone()
    wrong["paths"][0, 0] = token
    with pytest.raises(ValueError, match="^paths must hold tokens from 0 to"):
        op(**wrong)


@pytest.mark.parametrize(
    ("op", "arguments", "name", "axis"),
    [
        (directional_scan, scan_arguments, "paths", 0),
        (directional_scan, scan_arguments, "paths", 1),
        (directional_scan, scan_arguments, "u", -1),
        (directional_scan, scan_arguments, "A", -1),
        (causal_conv1d, conv_arguments, "paths", 1),
        (causal_conv1d, conv_arguments, "x", -1),
        (causal_conv1d, conv_arguments, "weight", -1),
        (selective_scan, sequence_arguments, "u", -1),
        (selective_scan, sequence_arguments, "A", -1),
        (selective_scan, sequence_arguments, "B", 1),
    ],
)
def test_an_empty_axis(op, arguments, name, axis):
    wrong = arguments()
    wrong[name] = wrong[name].narrow(axis, 0, 0)
    with pytest.raises(ValueError, match=rf"^({_SIZES_FROM.get(name, name)}|paths) must h"):
        op(**wrong)


def test_groups_must_divide_the_channels():
    wrong = sequence_arguments()
    wrong["B"] = torch.randn(2, 3, 3, 9)
    with pytest.raises(ValueError, match="^B must have a number of groups that divides the 4 channels of u, got 3"):
        selective_scan(**wrong)


def test_groups_must_agree():
    wrong = sequence_arguments()
    wrong["C"] = torch.randn(2, 4, 3, 9)
    with pytest.raises(ValueError, match="^C must have as many groups as B, or one, got 4 and 2"):
        selective_scan(**wrong)


def test_an_unknown_activation():
    with pytest.raises(ValueError, match="^activation must be 'silu' or None, got 'relu'"):
        causal_conv1d(**conv_arguments(), activation="relu")
