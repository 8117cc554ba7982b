"""Mamba-2's Triton kernels in Triton's interpreter, as `test_triton_interpreter.py` runs those of the first scan."""

import json
import sys
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scan_cases import Case, make_ssd_case
from test_triton_interpreter import compare, interpreted, some_gradient

from nnunetv2_mamba.ops import directional_ssd
from nnunetv2_mamba.ops.backends import triton_ssd as backend
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

# Arguments of `make_ssd_case`, then settings of the backend. Chunks of a few tokens where nothing else is said.
FAST = {
    "three_directions_of_their_own_input": (
        {"batch": 1, "directions": 3, "length": 10, "channels": 12, "heads": 2, "groups": 1, "shared": False},
        {},
    ),
    "shared_input_two_groups_heads_in_turn": (
        {"directions": 2, "length": 6, "channels": 8, "state_size": 5, "heads": 4, "groups": 2},
        {"_WEIGHT_PROGRAMS": 1},
    ),
    "no_options": (
        {"batch": 1, "length": 6, "channels": 3, "heads": 1, "D": False, "delta_bias": False, "z": False}
        | {"delta_softplus": False},
        {},
    ),
    "tiles_of_channels_and_states": (
        {"batch": 1, "directions": 1, "length": 5, "channels": 20, "heads": 1, "state_size": 19},
        {"_TILES": (16,), "_CARRIED": 128},
    ),
    "states_carried_in_groups": (
        {"batch": 1, "directions": 1, "length": 11, "channels": 2, "state_size": 3, "heads": 1},
        {"_CHUNK": 2},
    ),
    "one_token": ({"batch": 1, "directions": 1, "length": 1, "channels": 2, "heads": 1}, {}),
    "large_steps": ({"batch": 1, "length": 6, "channels": 3, "heads": 1, "delta_shift": 30.0}, {}),
    "small_steps": ({"batch": 1, "length": 6, "channels": 3, "heads": 1, "delta_shift": -15.0}, {}),
    "a_token_that_forgets_all": (
        {"batch": 1, "directions": 1, "length": 12, "channels": 4, "heads": 1, "delta_softplus": False}
        | {"delta_bias": False, "huge_step": 5},
        {"_CHUNK": 8},
    ),
    "bfloat16": (
        {"batch": 1, "directions": 2, "length": 6, "channels": 4, "heads": 2, "groups": 1, "low": torch.bfloat16},
        {},
    ),
    "float16": (
        {"batch": 1, "directions": 2, "length": 6, "channels": 4, "heads": 2, "groups": 1, "low": torch.float16},
        {},
    ),
    # The sum before the gate is too large for fp16; the results are not.
    "float16_beyond_its_range": (
        {"batch": 1, "directions": 2, "length": 6, "channels": 4, "heads": 1, "low": torch.float16, "scale": 1000.0},
        {},
    ),
}
SLOW = {
    "chunks_as_they_are": (
        {"batch": 1, "directions": 1, "length": 100, "channels": 160, "heads": 2, "groups": 1, "state_size": 64},
        {"_CHUNK": backend._CHUNK},
    ),
    "more_chunks_than_are_carried_at_a_time": (
        {"batch": 1, "directions": 1, "length": 1100, "channels": 24, "heads": 1, "state_size": 16},
        {"_CHUNK": backend._CHUNK},
    ),
}


def errors_of(arguments: dict, settings: dict) -> dict[str, float]:
    arguments = dict(arguments)
    low, shift = arguments.pop("low", torch.float32), arguments.pop("delta_shift", 0.0)
    huge, scale = arguments.pop("huge_step", None), arguments.pop("scale", None)
    case = make_ssd_case(**arguments)
    tensors = {name: None if t is None else t.detach() for name, t in case.tensors.items()}
    tensors["delta"] += shift
    if huge is not None:
        tensors["delta"].fill_(1e-2)[:, :, huge] = 1e6
    if scale is not None:
        tensors["B"] *= scale
        tensors["C"] *= scale
        tensors["z"] -= 17.0
    tensors |= {name: t.to(low) for name in ("u", "delta", "B", "C", "z") if (t := tensors[name]) is not None}
    exact = Case(tensors, case.paths, case.delta_softplus, directional_ssd)

    u, delta, A, B, C, D, delta_bias, z = tensors.values()
    scan = ScanArguments(u, delta, A, B, C, case.paths, D, delta_bias, case.delta_softplus, z)
    # The interpreter multiplies bf16 as if the bits were whole numbers, so operands stay in fp32.
    with patch.multiple(backend, **{"_CHUNK": 4, "_precision": lambda *tensors: "ieee", **settings}):
        out, states = backend.scan_forward(scan)
        saved = states.clone()
        grad_out = some_gradient(out)
        gradients = backend.scan_backward(grad_out, scan, states)
        assert states.shape == backend.states_shape(*delta.shape[:3], u.shape[-1], B.shape[-1])
    assert torch.equal(states, saved)
    exact = exact.to(torch.float64).run_with_gradients("reference", grad_out.double())
    if scale is not None:
        assert exact["out"].abs().max() < 65504 < (exact["out"] / F.silu(z.double())).abs().max()
    return compare({"out": out, **dict(zip(tensors, gradients, strict=True))}, exact, tensors)


@pytest.fixture(scope="module")
def fast() -> dict[str, dict[str, float]]:
    return interpreted(__file__, "FAST")


@pytest.fixture(scope="module")
def slow() -> dict[str, dict[str, float]]:
    return interpreted(__file__, "SLOW")


def check(name: str, errors: dict[str, float]) -> None:
    # The interpreter truncates to bf16.
    low = {"bfloat16": (2e-2, 2e-2), "float16": (2e-3, 2e-3), "float16_beyond_its_range": (2e-3, 2e-3)}
    forward, gradient = low.get(name, (2e-6, 1e-5))
    for tensor, error in errors.items():
        assert error <= (forward if tensor == "out" else gradient), f"{tensor}: relative error {error:.2e}"


@pytest.mark.parametrize("name", FAST)
def test_equals_the_definition(fast, name):
    check(name, fast[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_equals_the_definition_at_length(slow, name):
    check(name, slow[name])


@pytest.mark.parametrize(
    ("dtypes", "tf32", "expected"),
    [
        ([torch.bfloat16] * 3, True, "bf16"),
        ([torch.bfloat16] * 3, False, "ieee"),
        ([torch.float16] * 3, True, "tf32"),
        ([torch.float16] * 3, False, "ieee"),
        ([torch.float16, torch.bfloat16, torch.bfloat16], True, "tf32"),
        ([torch.float32, torch.bfloat16, torch.bfloat16], True, "ieee"),
        ([torch.float32] * 3, True, "ieee"),
    ],
)
def test_products_lose_no_digits_that_the_inputs_have(dtypes, tf32, expected, monkeypatch):
    monkeypatch.setattr(backend, "_has_tf32", lambda device: tf32)
    assert backend._precision(*(torch.empty(1, dtype=dtype) for dtype in dtypes)) == expected


@pytest.mark.parametrize(("size", "tile"), [(1, 16), (16, 16), (24, 16), (32, 32), (40, 16), (64, 32), (80, 16)])
def test_tiles_pad_little(size, tile):
    assert backend._tile(size) == tile


if __name__ == "__main__":
    print(json.dumps({name: errors_of(*case) for name, case in {"FAST": FAST, "SLOW": SLOW}[sys.argv[1]].items()}))
