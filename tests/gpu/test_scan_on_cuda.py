"""The Triton backend on a GPU: real sizes, low precision, repeatability, and torch's machinery around it."""

import pytest
import torch
from scan_cases import Case, assert_same, make_case, relative_error, run_conv, with_projected_weights

from nnunetv2_mamba.ops import backend_selection, causal_conv1d, directional_scan, scan_order
from nnunetv2_mamba.ops.backends import triton as backend

LOW = ("u", "delta", "B", "C", "z")  # what a network gives in its own precision


def truth(case: Case) -> dict[str, torch.Tensor]:
    """In fp64 on the GPU by the torch backend, which tests/ops compares with the definition."""
    return case.to("cuda", torch.float64).run_with_gradients("torch")


def lowered(case: Case, dtype: torch.dtype) -> Case:
    tensors = {name: t if t is None or name not in LOW else t.detach().to(dtype) for name, t in case.tensors.items()}
    return Case(tensors, case.paths, case.delta_softplus).to("cuda")


def test_triton_is_the_choice_for_cuda_tensors():
    assert backend_selection.choose_backend("cuda")[0] == "triton"


@pytest.mark.parametrize(
    ("directions", "length", "channels", "state_size"),
    [(3, 32768, 96, 16), (3, 4097, 384, 16), (3, 512, 768, 16), (8, 1728, 1024, 64), (1, 100, 100, 100)],
)
def test_sizes_of_the_networks(directions, length, channels, state_size):
    case = make_case(2, directions, length, channels, state_size, shared=directions == 8, z=directions == 3)
    assert_same(case.to("cuda").run_with_gradients("triton"), truth(case))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_low_precision(dtype, tolerance):
    case = lowered(make_case(directions=3, length=500, channels=96, state_size=16), dtype)
    assert_same(case.run_with_gradients("triton"), truth(case), forward=tolerance, gradient=tolerance)


@pytest.mark.parametrize(
    ("rank", "dtype"),
    [*((rank, dtype) for rank in (3, 6, 12) for dtype in (torch.float16, torch.bfloat16)), (3, torch.float32)],
)
def test_weights_that_are_parts_of_a_projection(rank, dtype):
    """SegMamba's, of rank 3, 6 and 12 in its first stages, begin at no multiple of 16 bytes."""
    case = lowered(make_case(directions=3, length=500, channels=96, state_size=16), dtype)
    projected = with_projected_weights(case, rank)
    assert any(projected.tensors[name].data_ptr() % 16 for name in ("B", "C"))
    assert_same(projected.run_with_gradients("triton"), case.run_with_gradients("triton"), forward=0, gradient=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_gpu_that_is_not_the_current_one():
    case = make_case(directions=3, length=500, channels=96, state_size=16)
    assert torch.cuda.current_device() == 0
    assert_same(case.to("cuda:1").run_with_gradients("triton"), truth(case))
    assert backend_selection.choose_backend("cuda:1")[0] == "triton"


# Slow decays are near 1, where rounding one to fp32 changes the rate, and 10,000 steps remember it.
@pytest.mark.parametrize(("shift", "tolerance"), [(-9.0, 1e-4), (0.0, 1e-5), (8.0, 1e-5), (40.0, 1e-5)])
def test_long_paths_with_slow_and_fast_decays(shift, tolerance):
    case = make_case(batch=1, directions=1, length=262144, channels=8, state_size=16)
    case.tensors["delta"] = case.tensors["delta"].detach() + shift
    assert_same(case.to("cuda").run_with_gradients("triton"), truth(case), forward=tolerance, gradient=10 * tolerance)


def test_same_bits_every_time():
    case = lowered(make_case(directions=3, length=5000, channels=96, state_size=16), torch.bfloat16)
    first = case.run_with_gradients("triton")
    for _ in range(3):
        for name, value in case.run_with_gradients("triton").items():
            assert torch.equal(value, first[name]), name


def test_wide_offsets_change_nothing(monkeypatch):
    case = make_case(directions=2, length=300, channels=40, state_size=16).to("cuda")
    narrow = case.run_with_gradients("triton")
    monkeypatch.setattr(backend, "_WIDE_OFFSETS", 0)
    for name, value in case.run_with_gradients("triton").items():
        assert torch.equal(value, narrow[name]), name


def test_tensors_with_more_than_two_to_the_31_elements():
    """The last of the rows lie beyond 32-bit offsets; B and C of one state, so that the rest stays small."""
    length, channels = 2**26 + 5, 32
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    u = torch.ones(1, length, channels, dtype=torch.bfloat16, device="cuda")
    weights = torch.ones(1, 1, length, 1, dtype=torch.bfloat16, device="cuda")
    paths = torch.arange(length, dtype=torch.int32, device="cuda")[None]
    A = torch.full((1, channels, 1), -1e9, device="cuda")
    out = directional_scan(u, u[:, None], A, weights, weights, paths, backend="triton")
    assert (out == 1).all()  # h = dl * B * u = 1, and nothing is remembered


def test_memory_beyond_outputs_and_gradients():
    case = lowered(make_case(directions=3, length=262144, channels=96, state_size=16, shared=False), torch.bfloat16)
    results = sum(t.nbytes for t in case.run_with_gradients("triton").values())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    case.run_with_gradients("triton")
    assert torch.cuda.max_memory_allocated() - before <= 1.8 * results


def test_operators_pass_opcheck():
    case = make_case(length=40, channels=33).to("cuda")
    t = case.tensors
    scan = (t["u"], t["delta"], t["A"], t["B"], t["C"], case.paths, t["D"], t["delta_bias"], True, t["z"], "triton")
    torch.library.opcheck(torch.ops.nnunetv2_mamba.directional_scan.default, scan)
    weight = torch.randn(2, 33, 4, device="cuda", requires_grad=True)
    convolution = (t["u"], weight, t["delta_bias"], case.paths, True, "triton")
    torch.library.opcheck(torch.ops.nnunetv2_mamba.causal_conv1d.default, convolution)


def test_compiles_without_a_graph_break():
    paths = scan_order.tri_oriented((4, 5, 6), torch.device("cuda"))
    case = make_case(directions=3, length=120, channels=32, state_size=16).to("cuda")
    case.paths = paths
    compiled = torch.compile(lambda: case.run("triton"), fullgraph=True)
    assert relative_error(compiled(), case.run("triton")) == 0


def test_under_autocast():
    case = make_case(length=200, channels=32, state_size=16)
    on_gpu = case.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert_same(on_gpu.run_with_gradients("triton"), truth(case))


def test_expanded_gradient():
    """The gradient of a sum has a stride of 0."""
    case = make_case(length=70, channels=33, state_size=16)
    gradients = [
        torch.autograd.grad(run.sum(), list(on.tensors.values()))
        for on, run in [
            (on, on.run(name)) for on, name in ((case.to("cuda"), "triton"), (case.to("cuda", torch.float64), "torch"))
        ]
    ]
    for actual, exact in zip(*gradients, strict=True):
        assert relative_error(actual, exact) <= 1e-4


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("activation", ["silu", None])
def test_convolution_at_size(shared, activation):
    generator = torch.Generator("cuda").manual_seed(0)
    paths = scan_order.tri_oriented((24, 20, 30), torch.device("cuda"))
    rows = (2, 14400) if shared else (2, 3, 14400)
    halves = torch.randn(*rows, 192, device="cuda", generator=generator)
    tensors = {
        "x": halves[..., :96].requires_grad_(),
        "weight": torch.randn(3, 96, 4, device="cuda", generator=generator, requires_grad=True),
        "bias": torch.randn(3, 96, device="cuda", generator=generator, requires_grad=True),
    }
    exact = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    assert_same(run_conv(tensors, paths, activation, "triton"), run_conv(exact, paths, activation, "torch"))
    first, again = (causal_conv1d(**tensors, paths=paths, backend="triton") for _ in range(2))
    assert torch.equal(first, again)
