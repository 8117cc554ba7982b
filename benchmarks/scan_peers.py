"""What else computes Mamba's selective scan on a CPU, called as its own documentation has it, on the inputs of scan.py.

`pip install mambapy transformers` for three of them. Intel's is in an environment of its own: `pip install torch==2.8.0
intel-extension-for-pytorch==2.8.0`, the last that there will be. Who is not installed is left out, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Peer:
    """Another implementation.

    Attributes:
        name: for the table.
        modules: imported before it is called.
        remedy: how to install it.
        arrange: makes the tensors (u, delta, A, B, C, D, z, delta_bias) of one direction as `scan` takes them.
        scan: its scan, gated.
        differentiable: whether it has a backward pass.
    """

    name: str
    modules: tuple[str, ...]
    remedy: str
    arrange: Callable[[dict[str, Tensor]], list[Tensor]]
    scan: Callable[..., Tensor]
    differentiable: bool = True

    def missing(self) -> str | None:
        """Why it cannot be called; None if it can."""
        try:
            for module in self.modules:
                import_module(module)
        except ImportError as error:
            return f"{error}; {self.remedy}"
        return None


def channels_last(inputs: dict[str, Tensor]) -> list[Tensor]:
    """u, delta and z are (b, L, d), B and C (b, L, n)."""
    of_direction = {name: inputs[name][0] for name in ("A", "D", "delta_bias")}
    of_direction |= {name: inputs[name][:, 0].contiguous() for name in ("delta", "B", "C")}
    return [of_direction.get(name, inputs[name]) for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]


def channels_first(inputs: dict[str, Tensor]) -> list[Tensor]:
    """As `mamba_ssm` has them: u, delta and z are (b, d, L), B and C (b, n, L)."""
    return [t.transpose(1, 2).contiguous() if t.ndim == 3 else t for t in channels_last(inputs)]


def by_ipex(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """B and C are (b, n, L): with `mamba_ssm`'s (b, 1, n, L) it gives NaN."""
    scan = torch.ops.torch_ipex.selective_scan_fn
    return scan(u, delta.clone(), A, B, C, D, z, delta_bias, True, False)[0]  # it may write into delta


def by_mambapy(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """As `MambaBlock.selective_scan` of mambapy, with its parallel scan."""
    from mambapy.pscan import pscan

    delta = F.softplus(delta + delta_bias)
    states = pscan(torch.exp(delta.unsqueeze(-1) * A), delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
    y = (states @ C.unsqueeze(-1)).squeeze(3) + D * u
    return y * F.silu(z)


def by_transformers(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """What `MambaMixer` computes where no kernel is installed: a loop over the tokens."""
    from transformers.models.mamba import modeling_mamba

    return modeling_mamba.mamba_selective_scan(u, delta, A, B, C, D, z, delta_bias, True)


def by_a_compiled_loop(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """A loop over the tokens whose step `torch.compile` has made one kernel of."""
    delta = F.softplus(delta + delta_bias[:, None])
    state, outputs = u.new_zeros(*u.shape[:2], A.shape[1]), []
    for index in range(u.shape[-1]):
        state, y = _compiled_step(state, u[:, :, index], delta[:, :, index], A, B[:, :, index], C[:, :, index])
        outputs.append(y)
    return (torch.stack(outputs, 2) + D[:, None] * u) * F.silu(z)


@torch.compile(dynamic=False)
def _compiled_step(state, u, delta, A, B, C) -> tuple[Tensor, Tensor]:
    state = torch.exp(delta.unsqueeze(-1) * A) * state + (delta * u).unsqueeze(-1) * B.unsqueeze(1)
    return state, (state * C.unsqueeze(1)).sum(-1)


PEERS = (
    Peer("mambapy, parallel scan", ("mambapy.pscan",), "pip install mambapy", channels_last, by_mambapy),
    Peer(
        "transformers without kernels",
        ("transformers.models.mamba.modeling_mamba",),
        "pip install 'transformers>=5'",
        channels_first,
        by_transformers,
    ),
    Peer("a loop, its step compiled", (), "", channels_first, by_a_compiled_loop),
    Peer(
        "Intel's extension (IPEX)",
        ("intel_extension_for_pytorch",),
        "pip install torch==2.8.0 intel-extension-for-pytorch==2.8.0, in an environment of its own",
        channels_first,
        by_ipex,
        differentiable=False,
    ),
)
