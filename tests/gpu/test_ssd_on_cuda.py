"""Mamba-2's Triton backend on a GPU: real sizes, low precision, repeatability, and torch's machinery around it."""

import pytest
import torch
from scan_cases import Case, assert_same, make_ssd_case, relative_error

from nnunetv2_mamba.ops import backend_selection, scan_order

LOW = ("u", "delta", "B", "C", "z")  # what a network gives in its own precision


def truth(case: Case) -> dict[str, torch.Tensor]:
    """In fp64 on the GPU by the torch backend, which tests/ops compares with the definition."""
    return case.to("cuda", torch.float64).run_with_gradients("torch")


def lowered(case: Case, dtype: torch.dtype) -> Case:
    low = {name: case.tensors[name].detach().to(dtype) for name in LOW if case.tensors[name] is not None}
    return case.with_tensors(**low).to("cuda")


def test_the_kernels_pass_their_check():
    assert backend_selection.unavailable("triton", "directional_ssd") is None


@pytest.mark.parametrize(
    ("directions", "length", "head_size", "heads", "state_size"),
    [(3, 32768, 24, 4, 16), (3, 4097, 64, 6, 64), (1, 512, 80, 8, 32), (8, 1728, 64, 16, 128), (1, 100, 100, 1, 200)],
)
def test_sizes_of_the_networks(directions, length, head_size, heads, state_size):
    case = make_ssd_case(
        2, directions, length, heads * head_size, state_size, directions == 8, z=directions == 3, heads=heads, groups=1
    )
    assert_same(case.to("cuda").run_with_gradients("triton"), truth(case))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_low_precision(dtype, tolerance):
    case = lowered(make_ssd_case(directions=3, length=500, channels=96, state_size=32, heads=4), dtype)
    assert_same(case.run_with_gradients("triton"), truth(case), forward=tolerance, gradient=tolerance)


def test_same_bits_every_time():
    case = lowered(make_ssd_case(directions=3, length=5000, channels=96, state_size=16, heads=4), torch.bfloat16)
    first = case.run_with_gradients("triton")
    for _ in range(3):
        for name, value in case.run_with_gradients("triton").items():
            assert torch.equal(value, first[name]), name


def test_compiles_without_a_graph_break():
    case = make_ssd_case(directions=3, length=120, channels=32, state_size=16).to("cuda")
    case.paths = scan_order.tri_oriented((4, 5, 6), torch.device("cuda"))
    compiled = torch.compile(lambda: case.run("triton"), fullgraph=True)
    assert relative_error(compiled(), case.run("triton")) == 0
