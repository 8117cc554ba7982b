"""torch.compile, torch.export, fake tensors, activation checkpointing and autocast see one opaque operator."""

import pytest
import torch
from fake_gpu import needs_fake_gpu
from operator_calls import OperatorCalls
from scan_cases import BACKENDS, assert_same, make_case, make_ssd_case, with_gradients
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from nnunetv2_mamba.ops import backend_selection, causal_conv1d, directional_scan, scan_order, selective_scan

every_backend = pytest.mark.parametrize(("backend", "device"), BACKENDS)
GRID = (3, 2, 5)


class Block(torch.nn.Module):
    """A small ToM block: projections around the convolution and the scan, and a table from the grid's size."""

    def __init__(self, backend: str, channels: int = 6, state_size: int = 4) -> None:
        super().__init__()
        self.backend = backend
        self.state_size = state_size
        self.project = torch.nn.Linear(channels, 2 * channels)
        self.weight = torch.nn.Parameter(torch.randn(3, channels, 4))
        self.bias = torch.nn.Parameter(torch.randn(3, channels))
        self.select = torch.nn.Linear(channels, channels + 2 * state_size)
        self.A_log = torch.nn.Parameter(torch.rand(3, channels, state_size))
        self.D = torch.nn.Parameter(torch.randn(3, channels))
        self.delta_bias = torch.nn.Parameter(torch.randn(3, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, D, H, W, channels) to the same."""
        paths = scan_order.tri_oriented(x.shape[1:-1], x.device)
        u, z = self.project(x.flatten(1, -2)).chunk(2, dim=-1)
        u = causal_conv1d(u, self.weight, self.bias, paths, backend=self.backend)
        channels = u.shape[-1]
        delta, B, C = self.select(u).split([channels, self.state_size, self.state_size], dim=-1)
        A = -self.A_log.exp()
        y = directional_scan(u, delta, A, B, C, paths, self.D, self.delta_bias, True, z, backend=self.backend)
        return y.view_as(x)


@pytest.fixture
def block_and_input():
    def make(backend: str, device: str) -> tuple[Block, torch.Tensor]:
        torch.manual_seed(0)
        torch.compiler.reset()
        return Block(backend).to(device), torch.randn(2, *GRID, 6, device=device, requires_grad=True)

    return make


def result_of(function, block: Block, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return with_gradients(function(x), {"x": x, **dict(block.named_parameters())})


@every_backend
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", [True, False])
def test_opcheck_of_mamba_2s_scan(backend, device, shared, options):
    case = make_ssd_case(channels=6, shared=shared, D=options, delta_bias=options, z=options).to(device)
    given = [case.tensors[name] for name in ("u", "delta", "A", "B", "C")]
    D, delta_bias, z = (case.tensors[name] for name in ("D", "delta_bias", "z"))
    scan = torch.ops.nnunetv2_mamba.directional_ssd.default
    torch.library.opcheck(scan, (*given, case.paths, D, delta_bias, True, z, backend))


@every_backend
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", [True, False])
def test_opcheck(backend, device, shared, options):
    case = make_case(shared=shared, D=options, delta_bias=options, z=options).to(device)
    given = [case.tensors[name] for name in ("u", "delta", "A", "B", "C")]
    D, delta_bias, z = (case.tensors[name] for name in ("D", "delta_bias", "z"))
    scan = torch.ops.nnunetv2_mamba.directional_scan.default
    torch.library.opcheck(scan, (*given, case.paths, D, delta_bias, True, z, backend))
    weight = torch.randn(2, 5, 4, device=device, requires_grad=True)
    convolve = torch.ops.nnunetv2_mamba.causal_conv1d.default
    torch.library.opcheck(convolve, (case.tensors["u"], weight, D, case.paths, options, backend))


@every_backend
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_a_graph_break(backend, device, dynamic, block_and_input):
    block, x = block_and_input(backend, device)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    assert_same(result_of(compiled, block, x), result_of(block, block, x), forward=1e-6, gradient=1e-6)


@pytest.mark.slow
def test_compile_with_inductor(block_and_input):
    backend, device = BACKENDS[0]
    block, x = block_and_input(backend, device)
    compiled = torch.compile(block, fullgraph=True)
    assert_same(result_of(compiled, block, x), result_of(block, block, x), forward=1e-5, gradient=1e-5)


def test_compile_of_another_grid_size(block_and_input):
    """nnU-Net may predict with another patch than it trained with: the table must follow."""
    backend, device = BACKENDS[0]
    block, x = block_and_input(backend, device)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    compiled(x)
    for grid in ((4, 3, 2), (2, 2, 7)):
        y = torch.randn(1, *grid, 6, device=device)
        torch.testing.assert_close(compiled(y), block(y))


def test_compile_several_tables_in_one_graph(block_and_input):
    """One network scans its grid at several resolutions and in several orders."""
    backend, device = BACKENDS[0]
    block, x = block_and_input(backend, device)

    def network(x):
        orders = [scan_order.ss3d(GRID, orientation)[0] for orientation in (0, 1, 1)]
        for order in orders:
            x = x.flatten(1, -2)[:, order].view_as(x)
        return block(torch.cat([block(x)[:, :2], x], dim=1))

    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert_same(result_of(compiled, block, x), result_of(network, block, x), forward=1e-6, gradient=1e-6)


def test_a_graph_may_overwrite_its_table():
    """A compiler uses the memory of an operator's result for another one when nobody reads it any more."""
    table = torch.ops.nnunetv2_mamba.scan_order_table("bidirectional", [2, 3], torch.device("cpu"), [])
    table.zero_()
    assert scan_order.bidirectional((2, 3)).tolist() == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]


@pytest.mark.parametrize(
    ("name", "grid", "options"),
    [
        ("raster", [7], []),
        ("bidirectional", [2, 3], []),
        ("tri_oriented", GRID, []),
        ("ss3d", GRID, [4]),
        ("six_axes", [2, 3], []),
        ("hilbert+reverse", GRID, []),
        ("random", [5], []),
    ],
)
def test_opcheck_of_the_tables(name, grid, options):
    operator = torch.ops.nnunetv2_mamba.scan_order_table.default
    torch.library.opcheck(operator, (name, grid, torch.device("cpu"), options))
    made = operator(name, grid, torch.device("cpu"), options)
    assert torch.equal(made, scan_order.table(name, grid, "cpu", *options))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_the_scan_of_a_sequence(dynamic):
    backend, device = BACKENDS[0]
    shapes = {"u": (2, 4, 9), "delta": (2, 4, 9), "A": (4, 3), "B": (2, 2, 3, 9), "C": (2, 2, 3, 9)}
    tensors = {name: torch.rand(shape, device=device).requires_grad_() for name, shape in shapes.items()}
    torch.compiler.reset()
    compiled = torch.compile(selective_scan, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    expected = with_gradients(selective_scan(**tensors, backend=backend), tensors)
    assert_same(with_gradients(compiled(**tensors, backend=backend), tensors), expected, forward=1e-6, gradient=1e-6)


def test_compile_chooses_the_backend_while_tracing(monkeypatch, block_and_input):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "torch")
    block, x = block_and_input(None, "cpu")
    names = []

    def look(graph, inputs):
        operators = ("directional_scan", "causal_conv1d")
        names.extend(
            str(node.args[-1]) for node in graph.graph.nodes if any(name in str(node.target) for name in operators)
        )
        return graph

    torch.compile(block, backend=look, fullgraph=True)(x)
    assert names == ["torch", "torch"]


@every_backend
def test_export(backend, device, block_and_input):
    block, x = block_and_input(backend, device)
    program = torch.export.export(block, (x.detach(),))
    torch.testing.assert_close(program.module()(x), block(x))


@every_backend
def test_fake_tensors(backend, device):
    with FakeTensorMode(), torch.device(device):
        block = Block(backend)
        x = torch.randn(2, *GRID, 6, requires_grad=True)
        out = block(x)
        out.sum().backward()
    assert out.shape == x.shape and x.grad.shape == x.shape
    assert block.D.grad.shape == block.D.shape


@every_backend
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(backend, device, use_reentrant, block_and_input):
    block, x = block_and_input(backend, device)

    def recomputed(x):
        return checkpoint(block, x, use_reentrant=use_reentrant)

    assert_same(result_by_backward(recomputed, block, x), result_by_backward(block, block, x), forward=0, gradient=0)


def result_by_backward(function, block: Block, x: torch.Tensor) -> dict[str, torch.Tensor]:
    # The reentrant checkpoint works with .backward() only.
    block.zero_grad()
    x.grad = None
    out = function(x)
    out.sum().backward()
    return {"out": out.detach(), "x": x.grad, **{name: p.grad.clone() for name, p in block.named_parameters()}}


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_scan_alone(backend, device, dtype):
    case = make_case(length=100).to(device)
    expected = case.run_with_gradients(backend)
    with torch.autocast(device, dtype=dtype):
        assert_same(case.run_with_gradients(backend), expected, forward=0, gradient=0)
        sequence = [torch.randn(2, 4, 9, device=device) for _ in range(2)]
        weights = [torch.randn(2, 3, 9, device=device) for _ in range(2)]
        assert (
            selective_scan(*sequence, -torch.rand(4, 3, device=device), *weights, backend=backend).dtype
            == torch.float32
        )


@pytest.mark.parametrize("function", ["scan_forward", "scan_backward", "conv_forward", "conv_backward"])
def test_autocast_is_off_inside_the_operators(function, monkeypatch, block_and_input):
    block, x = block_and_input("torch", "cpu")
    backend, seen = backend_selection.load("torch"), []
    original = getattr(backend, function)
    monkeypatch.setattr(
        backend, function, lambda *args: seen.append(torch.is_autocast_enabled("cpu")) or original(*args)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        block(x).sum().backward()
    assert seen == [False]


@every_backend
def test_a_block_under_autocast(backend, device, block_and_input):
    block, x = block_and_input(backend, device)
    expected = result_of(block, block, x)
    with torch.autocast(device, dtype=torch.bfloat16):
        result = result_of(block, block, x)
    assert result["out"].dtype == torch.bfloat16
    assert result["A_log"].dtype == torch.float32
    assert_same(result, expected, forward=0.05, gradient=0.05)


@pytest.fixture
def cuda_autocast():
    """Switches CUDA's autocast on without a GPU, where `torch.autocast` would leave it off."""
    before = torch.get_autocast_dtype("cuda")

    def switch_on(dtype: torch.dtype) -> None:
        torch.set_autocast_dtype("cuda", dtype)
        torch.set_autocast_enabled("cuda", True)

    yield switch_on
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@needs_fake_gpu
def test_a_block_under_autocast_on_a_fake_gpu(dtype, monkeypatch, cuda_autocast):
    # What torch's dispatcher does there, and the Triton backend's shapes and dtypes; nothing is computed.
    monkeypatch.setattr(backend_selection, "unavailable", lambda *_: None)
    cuda_autocast(dtype)
    with FakeTensorMode(), torch.device("cuda"), OperatorCalls() as calls:
        x = torch.randn(2, *GRID, 6)
        out = Block("triton")(x)
    assert (out.shape, out.dtype, out.device.type) == (x.shape, dtype, "cuda")
    fp32, int32 = torch.float32, torch.int32
    assert calls.dtypes == {
        "causal_conv1d": [[dtype, fp32, fp32, int32]],  # x, weight, bias, paths
        "directional_scan": [[dtype, dtype, fp32, dtype, dtype, int32, fp32, fp32, dtype]],  # u, delta, A, B, C, ...
    }


@every_backend
def test_inference_mode(backend, device, block_and_input):
    block, x = block_and_input(backend, device)
    with torch.inference_mode():
        out = block(x)
    torch.testing.assert_close(out, block(x))


def test_a_second_derivative_is_refused():
    case = make_case()
    (gradient,) = torch.autograd.grad(case.run("torch").sum(), case.tensors["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="directional_scan_backward"):
        gradient.sum().backward()
