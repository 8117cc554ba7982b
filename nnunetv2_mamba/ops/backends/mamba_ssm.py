"""The scan by mamba_ssm's CUDA kernel, for comparison: only when asked for, where that kernel is installed.

mamba_ssm knows one order of one sequence, so the tokens are gathered along every path, scanned as groups of one call,
and written back; autograd goes through all of it. The kernel itself was never run by this project: the tests put the
definition in its place.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..scan_arguments import ScanArguments


def available(device: torch.device | None = None) -> str | None:
    """None if mamba_ssm's kernel can be imported, on whichever device, else the reason with the remedy."""
    try:
        import selective_scan_cuda  # noqa: F401
    except ImportError as error:
        return (
            f"mamba_ssm's CUDA kernel cannot be imported ({error}); build it with "
            "'MAMBA_KEEP_CUDA_BUILD=TRUE pip install mamba-ssm --no-build-isolation' or use another backend"
        )
    return None


def directional_scan(scan: ScanArguments) -> Tensor:
    """The sum of scans along paths, differentiable by autograd."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z = scan
    batch, directions, length, channels = delta.shape
    index = paths.long()
    every = torch.arange(directions, device=index.device)[:, None]

    def channels_first(t: Tensor) -> Tensor:
        # The kernel wants one dtype for its inputs, and the position last.
        return t[:, every, index].to(u.dtype).transpose(2, 3)

    y = selective_scan_fn(
        channels_first(u if u.ndim == 4 else u[:, None].expand_as(delta)).flatten(1, 2),
        channels_first(delta).flatten(1, 2),
        A.flatten(0, 1),
        channels_first(B).contiguous(),
        channels_first(C).contiguous(),
        D=None if D is None else D.flatten(),
        delta_bias=None if delta_bias is None else delta_bias.flatten(),
        delta_softplus=delta_softplus,
    )
    y = y.view(batch, directions, channels, length).transpose(2, 3)
    # The inverse of a table brings its direction's results back to token order.
    y = y[:, every, index.argsort(dim=1)].sum(1, dtype=torch.float32)
    return y if z is None else y * F.silu(z.float())
