"""What is particular to Mamba-2's scan: heads, groups, and what it is a special case of."""

import pytest
import torch
from scan_cases import SCANS, assert_same, make_ssd_case

from nnunetv2_mamba.ops import directional_scan, directional_ssd
from nnunetv2_mamba.ops.backends import torch_ssd

every_backend = pytest.mark.parametrize(
    ("backend", "device"), [scan.values[1:] for scan in SCANS if scan.values[0] is make_ssd_case]
)


def truth(case):
    return case.to("cpu", torch.float64).run_with_gradients("reference")


@every_backend
@pytest.mark.parametrize(
    ("channels", "heads", "groups"),
    [(8, 1, 1), (24, 1, 1), (80, 1, 1), (48, 2, 1), (12, 12, 1), (12, 12, 12), (54, 6, 3), (240, 3, 1), (88, 8, 2)]
    + [(96, 4, 1), (102, 34, 2), (105, 7, 1), (187, 11, 1)],  # some fill vectors only together
)
def test_heads_and_groups(backend, device, channels, heads, groups):
    case = make_ssd_case(length=90, channels=channels, state_size=16, heads=heads, groups=groups)
    assert_same(case.to(device).run_with_gradients(backend), truth(case))


@pytest.mark.parametrize("name", ["u", "delta"])
def test_heads_that_share_vectors_share_nothing_else(name):
    """What is not finite in one head stays there, whatever else is in its vectors on the CPU."""
    case = make_ssd_case(length=40, channels=105, heads=7, groups=1)
    damaged = case.tensors[name].detach().clone()
    damaged[..., damaged.shape[-1] // 7 * 3] = float("nan")  # head 3
    clean = case.run_with_gradients("cpu")
    found = case.with_tensors(**{name: damaged.requires_grad_()}).run_with_gradients("cpu")
    assert found["out"][..., 45:60].isnan().any()
    for tensor in ("out", "u", "z", "delta"):
        width = found[tensor].shape[-1] // 7
        others = [i for i in range(7 * width) if i // width != 3]
        torch.testing.assert_close(found[tensor][..., others], clean[tensor][..., others], rtol=0, atol=0)


@every_backend
def test_is_the_selective_scan_with_one_decay_per_head(backend, device):
    """Mamba's scan of the same steps and decays for all channels of a head and all states."""
    case = make_ssd_case(length=100, channels=12, state_size=5, heads=4, groups=1).to(device)
    t = {name: tensor.detach() for name, tensor in case.tensors.items()}
    spread = {name: t[name].repeat_interleave(3, dim=-1) for name in ("delta", "A", "D", "delta_bias")}
    spread["A"] = spread["A"][..., None].expand(-1, -1, 5)
    expected = directional_scan(
        t["u"], **spread, B=t["B"][:, :, :, 0], C=t["C"][:, :, :, 0], paths=case.paths, delta_softplus=True, z=t["z"],
        backend="reference",
    )  # fmt: skip
    torch.testing.assert_close(case.run(backend).detach(), expected, rtol=1e-5, atol=1e-5)


@every_backend
def test_groups_with_equal_weights_are_one_group(backend, device):
    case = make_ssd_case(length=70, channels=24, heads=6, groups=1).to(device)
    spread = case.with_tensors(**{name: case.tensors[name].repeat(1, 1, 1, 3, 1) for name in ("B", "C")})
    torch.testing.assert_close(case.run(backend), spread.run(backend), rtol=1e-5, atol=1e-5)


@every_backend
def test_decay_may_grow(backend, device):
    """A positive A is as good as a negative one, while the state is finite."""
    case = make_ssd_case(length=40)
    case = case.with_tensors(A=-case.tensors["A"].detach() * 0.1).to(device)
    assert_same(case.run_with_gradients(backend), truth(case))


@every_backend
def test_a_token_that_forgets_all_does_not_blur_the_next_decays(backend, device):
    """Sums over a chunk that contain one huge exponent would have no digits left for the others."""
    case = make_ssd_case(batch=1, length=64, channels=4, heads=1, z=False, delta_softplus=False, delta_bias=False)
    delta = torch.full_like(case.tensors["delta"], 1e-2)
    delta[:, :, 20] = 1e6
    case = case.with_tensors(delta=delta).to(device)
    assert_same(case.run_with_gradients(backend), truth(case))


@every_backend
def test_a_step_of_zero_has_a_gradient(backend, device):
    """The torch backend has the step as a factor of everything, and divides by it."""
    case = make_ssd_case(length=20, delta_softplus=False, delta_bias=False)
    delta = case.tensors["delta"].detach().clone()
    delta[:, :, 3::4], delta[:, :, 5] = 0, 1e-30
    case = case.with_tensors(delta=delta).to(device)
    assert_same(case.run_with_gradients(backend), truth(case))


@pytest.mark.parametrize("groups_of_a_block", [1, 2])
@pytest.mark.parametrize("length", [16, 17, 256, 257, 400, 530, 1024])
def test_torch_around_chunks_groups_and_blocks(length, groups_of_a_block, monkeypatch):
    case = make_ssd_case(batch=2, directions=2, length=length, channels=4, heads=2, state_size=3)
    monkeypatch.setattr(torch_ssd, "_MATRIX_ELEMENTS_ON_CPU", groups_of_a_block * 2 * 2 * 16 * 16 * 16)
    assert_same(case.run_with_gradients("torch"), truth(case))


def test_the_definition_by_hand():
    """Two heads of one channel, one state, two steps backwards: s = B2 u2, then s = e^{-a} s + B1 u1."""
    out = directional_ssd(
        u=torch.tensor([[[2.0, 20.0], [3.0, 30.0]]]),
        delta=torch.ones(1, 1, 2, 2),
        A=torch.tensor([[-1.0, -2.0]]),
        B=torch.tensor([5.0, 7.0]).view(1, 1, 2, 1, 1),
        C=torch.tensor([11.0, 13.0]).view(1, 1, 2, 1, 1),
        paths=torch.tensor([[1, 0]], dtype=torch.int32),
        D=torch.tensor([[0.5, 0.25]]),
        backend="reference",
    )
    last = torch.tensor([21.0, 210.0])
    first = torch.exp(torch.tensor([-1.0, -2.0])) * last + torch.tensor([10.0, 100.0])
    torch.testing.assert_close(
        out[0], torch.stack([11 * first + torch.tensor([1.0, 5.0]), 13 * last + torch.tensor([1.5, 7.5])])
    )


@pytest.mark.parametrize("name", ["triton", "mamba_ssm"])
def test_a_kernel_that_cannot_be_used_is_refused(name, monkeypatch):
    case = make_ssd_case()
    reason = {"triton": "it is for cuda tensors", "mamba_ssm": "there is no mamba_ssm kernel of Mamba-2's scan"}[name]
    asked = f"The scan backend '{name}', asked for by the argument backend, cannot be used: {reason}"
    with pytest.raises(RuntimeError, match=asked):
        case.run(name)
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", name)
    with pytest.raises(RuntimeError, match="NNUNETV2_MAMBA_SCAN, cannot be used"):
        case.run(None)


@every_backend
@pytest.mark.parametrize("state_size", [1, 4])
@pytest.mark.parametrize(
    "rearranged",
    [
        lambda t: torch.cat([t, t], dim=-1)[..., : t.shape[-1]],
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),  # groups or heads before tokens
        lambda t: (
            t.transpose(1, 2).contiguous().transpose(1, 2)
        ),  # tokens before directions, as split from a projection
    ],
    ids=["slice", "heads first", "tokens first"],
)
def test_groups_of_any_layout(backend, device, state_size, rearranged):
    """Rows whose numbers are next to each other, but not group by group; the gradients are contiguous all the same."""
    case = make_ssd_case(directions=3, channels=12, state_size=state_size, heads=4, groups=2, shared=False).to(device)
    laid_out = {name: rearranged(case.tensors[name].detach()).requires_grad_() for name in ("delta", "B", "C")}
    result = case.with_tensors(**laid_out).run_with_gradients(backend)
    assert_same(result, truth(case))
    assert all(gradient.is_contiguous() for gradient in result.values())


@every_backend
def test_opcheck_of_the_backward_of_any_layout(backend, device):
    case = make_ssd_case(directions=2, channels=6).to(device)
    t = {name: tensor.detach() for name, tensor in case.tensors.items()}
    for name in ("delta", "B", "C"):
        t[name] = t[name].transpose(1, 2).contiguous().transpose(1, 2)
    scan = (*(t[name] for name in ("u", "delta", "A", "B", "C")), case.paths, t["D"], t["delta_bias"], True, t["z"])
    out, states = torch.ops.nnunetv2_mamba.directional_ssd(*scan, backend)
    operator = torch.ops.nnunetv2_mamba.directional_ssd_backward.default
    torch.library.opcheck(operator, (out, *scan, states, backend), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("length", [4200, 70_000])
def test_the_state_is_carried_over_many_groups_as_over_few(monkeypatch, length):
    """A GPU takes all at once: a loop over the groups would be thousands of launches."""
    case = make_ssd_case(batch=1, length=length).to(torch.float64)
    expected = case.run_with_gradients("torch")
    monkeypatch.setattr(torch_ssd, "_MATRIX_ELEMENTS_ON_CPU", 2**40)
    assert_same(case.run_with_gradients("torch"), expected, forward=1e-12, gradient=1e-12)
