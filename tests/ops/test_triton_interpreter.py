"""The Triton kernels in Triton's interpreter, which needs no GPU, against the definition in fp64.

The interpreter is chosen when triton is imported and is slow: one other process computes all cases, which are tiny and
cut into runs and intervals of a few tokens, and prints the errors.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
from scan_cases import Case, make_case, relative_error, with_gradients

from nnunetv2_mamba.ops import definition
from nnunetv2_mamba.ops.backends import triton as backend
from nnunetv2_mamba.ops.scan_arguments import ScanArguments


def tokens(count: int) -> Callable[[int], int]:
    """A backend's `_interval`: this many tokens between saved states, for every state size."""
    return lambda state_size: count


# Arguments of `make_case`, then settings of the backend.
SCANS = {
    "three_directions_ragged_channels": (
        {"batch": 1, "directions": 3, "length": 5, "channels": 33, "state_size": 16, "shared": False},
        {"_interval": tokens(2)},
    ),
    "shared_input_no_options": (
        {"length": 5, "channels": 3, "state_size": 8, "D": False, "delta_bias": False, "z": False}
        | {"delta_softplus": False},
        {"_interval": tokens(64)},
    ),
    "runs_of_several_intervals": (
        {"batch": 1, "directions": 1, "length": 19, "channels": 2, "state_size": 5},
        {"_interval": tokens(4), "multiprocessors": lambda device: 1, "_FORWARD_PROGRAMS": 2, "_BACKWARD_PROGRAMS": 2},
    ),
    "wide_offsets_channel_blocks_in_turn": (
        {"batch": 1, "directions": 1, "length": 5, "channels": 40, "state_size": 3},
        {"_interval": tokens(3), "_WIDE_OFFSETS": 0, "multiprocessors": lambda device: 1, "_BACKWARD_PROGRAMS": 2},
    ),
    "blocks_of_states": (
        {"batch": 1, "directions": 1, "length": 4, "channels": 3, "state_size": 64, "shared": False},
        {"_interval": tokens(3)},
    ),
    "one_token": ({"batch": 1, "directions": 1, "length": 1, "channels": 2}, {"_interval": tokens(4)}),
    "large_steps": ({"batch": 1, "length": 6, "channels": 3, "delta_shift": 30.0}, {"_interval": tokens(4)}),
    "small_steps": (
        {"batch": 1, "length": 6, "channels": 3, "delta_shift": -15.0},
        {"_interval": tokens(4)},
    ),
    "bfloat16": (
        {"batch": 1, "directions": 3, "length": 5, "channels": 4, "state_size": 16, "low": torch.bfloat16},
        {"_interval": tokens(4)},
    ),
}
CONVOLUTIONS = {
    "convolution": {"shared": True, "width": 4, "bias": True, "silu": True},
    "convolution_per_direction": {"shared": False, "width": 3, "bias": False, "silu": False},
}


def scan_errors(arguments: dict, settings: dict) -> dict[str, float]:
    arguments = dict(arguments)
    low, shift = arguments.pop("low", torch.float32), arguments.pop("delta_shift", 0.0)
    case = make_case(**arguments)
    tensors = {name: None if t is None else t.detach() for name, t in case.tensors.items()}
    tensors["delta"] += shift
    tensors |= {name: t.to(low) for name in ("u", "delta", "B", "C", "z") if (t := tensors[name]) is not None}
    exact = Case(tensors, case.paths, case.delta_softplus).to(torch.float64).run_with_gradients("reference")

    u, delta, A, B, C, D, delta_bias, z = tensors.values()
    scan = ScanArguments(u, delta, A, B, C, case.paths, D, delta_bias, case.delta_softplus, z)
    with patch.multiple(backend, _CARRIED_RUNS=2, **settings):
        out, states = backend.scan_forward(scan)
        saved = states.clone()
        gradients = backend.scan_backward(some_gradient(out), scan, states)
        assert states.shape == backend.states_shape(*delta.shape, A.shape[-1])
    assert torch.equal(states, saved)
    return compare({"out": out, **dict(zip(tensors, gradients, strict=True))}, exact, tensors)


def growing_modes() -> dict[str, float]:
    """The result of states that stay zero while A > 0 would multiply them by infinity from run to run."""
    case = make_case(batch=1, directions=1, length=8, channels=2, D=False, z=False, delta_bias=False)
    u, delta, A, B, C, *_ = (None if t is None else t.detach() for t in case.tensors.values())
    scan = ScanArguments(
        torch.zeros_like(u), torch.full_like(delta, 60.0), torch.ones_like(A), B, C, case.paths, None, None, False, None
    )
    with patch.multiple(backend, _CARRIED_RUNS=2, _interval=tokens(2)):
        out, states = backend.scan_forward(scan)
    return {"out": float(out.abs().sum()), "states": float(states.abs().sum())}


def conv_errors(shared: bool, width: int, bias: bool, silu: bool) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    randn = partial(torch.randn, generator=generator)
    length, channels = 70, 35  # more than a tile of either
    wide = randn(*((1, length, 2 * channels) if shared else (1, 2, length, 2 * channels)))
    tensors = {
        "x": wide[..., :channels],
        "weight": randn(2, channels, width),
        "bias": randn(2, channels) if bias else None,
    }
    paths = torch.stack([torch.randperm(length, generator=generator) for _ in range(2)]).int()
    exact = {k: None if t is None else t.double().requires_grad_() for k, t in tensors.items()}
    exact_out = definition.causal_conv1d(**exact, paths=paths, activation="silu" if silu else None)
    exact = with_gradients(exact_out, exact)
    out = backend.conv_forward(*tensors.values(), paths, silu)
    gradients = backend.conv_backward(some_gradient(out), *tensors.values(), paths, silu)
    return compare({"out": out, **dict(zip(tensors, gradients, strict=True))}, exact, tensors)


def some_gradient(out: torch.Tensor) -> torch.Tensor:
    """The one that `with_gradients` puts in."""
    return torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).cos().to(out.dtype)


def compare(actual: dict, exact: dict, inputs: dict) -> dict[str, float]:
    for name, value in actual.items():
        assert (value is None) == (name != "out" and inputs[name] is None), name
        if value is not None:
            assert value.is_contiguous() and value.shape == exact[name].shape, name
            assert value.dtype == inputs["x" if "x" in inputs else "u" if name == "out" else name].dtype, name
    return {name: relative_error(actual[name], value) for name, value in exact.items()}


def interpreted(script: str, *arguments: str) -> dict[str, dict[str, float]]:
    """The errors that the script prints when it runs in the interpreter."""
    if find_spec("triton") is None:
        pytest.skip("triton cannot be imported")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted to Python scalars" in result.stderr:
        pytest.skip("the interpreter of Triton before 3.7 does not work with this NumPy")
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    return interpreted(__file__)


@pytest.mark.parametrize("name", [*SCANS, *CONVOLUTIONS])
def test_equals_the_definition(errors, name):
    # The interpreter truncates to bf16, and the sum of three directions is truncated four times.
    forward, gradient = (2e-2, 2e-2) if name == "bfloat16" else (2e-6, 1e-5)
    for tensor, error in errors[name].items():
        assert error <= (forward if tensor == "out" else gradient), f"{tensor}: relative error {error:.2e}"


def test_zero_states_survive_growing_modes(errors):
    assert errors["growing modes"] == {"out": 0, "states": 0}


if __name__ == "__main__":
    measured = {"growing modes": growing_modes()}
    measured |= {name: scan_errors(*case) for name, case in SCANS.items()}
    measured |= {name: conv_errors(**case) for name, case in CONVOLUTIONS.items()}
    print(json.dumps(measured))
