"""Checks of the ops' arguments: every error names the argument and says what it should be."""

import torch
from torch import Tensor

from nnunetv2_mamba.ops.scan_arguments import ScanArguments, ScanGradients

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(like: Tensor, **tensors: Tensor | None) -> None:
    """TypeError for an argument that is no dense floating tensor, ValueError for one that is not on `like`'s device."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} must be fp16, bf16, fp32 or fp64, got {tensor.dtype}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")
        check_device(like, name, tensor)


def check_device(like: Tensor, name: str, tensor: Tensor) -> None:
    """ValueError unless `tensor` is on `like`'s device."""
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on the device of the first argument, {like.device}, got {tensor.device}")


def check_shape(name: str, tensor: Tensor | None, layout: str, *expected: int) -> None:
    """ValueError unless `tensor` is None or has the expected shape; `layout` names the axes, as in "(b, L, d)"."""
    if tensor is not None and tuple(tensor.shape) != expected:
        raise ValueError(f"{name} must have shape {layout} = {expected}, got {tuple(tensor.shape)}")


def check_ndim(name: str, tensor: Tensor, *layouts: str) -> None:
    """ValueError unless `tensor` has as many axes as one of `layouts`, such as "(b, L, d)"."""
    if tensor.ndim not in [layout.count(",") + 1 for layout in layouts]:
        raise ValueError(f"{name} must have shape {' or '.join(layouts)}, got {tuple(tensor.shape)}")


def check_paths(like: Tensor, paths: Tensor) -> tuple[int, int]:
    """(K, L); TypeError or ValueError unless `paths` is such an int32 table, not empty, on `like`'s device."""
    if not isinstance(paths, Tensor) or paths.dtype != torch.int32:
        given = paths.dtype if isinstance(paths, Tensor) else type(paths).__name__
        raise TypeError(f"paths must be an int32 tensor (see nnunetv2_mamba.ops.scan_order), got {given}")
    check_ndim("paths", paths, "(K, L)")
    # Not .shape: torch.compile cannot read that of a constant tensor while sizes are symbols.
    directions, length = paths.size()
    if directions == 0 or length == 0:
        raise ValueError(f"paths must hold at least one direction and one token, got shape ({directions}, {length})")
    check_device(like, "paths", paths)
    return directions, length


def check_tokens(paths: Tensor) -> None:
    """ValueError if a table on the CPU points outside its L tokens; elsewhere looking would stall the device."""
    if paths.device.type == "cpu":
        low, high = (int(bound) for bound in paths.aminmax())
        if low < 0 or high >= paths.shape[1]:
            raise ValueError(f"paths must hold tokens from 0 to {paths.shape[1] - 1}, got {low} to {high}")


def check_scan_input(scan: ScanArguments) -> tuple[int, int, int, int]:
    """(b, K, L, d) of a scan whose dtypes and devices, paths, u and z are right; TypeError or ValueError otherwise."""
    u = scan.u
    check_floating(u, **dict(zip(ScanGradients._fields, scan.differentiable(), strict=True)))
    K, L = check_paths(u, scan.paths)
    check_ndim("u", u, "(b, L, d)", "(b, K, L, d)")
    batch, d = u.shape[0], u.shape[-1]
    if d == 0:
        raise ValueError(f"u must have at least one channel, got shape {tuple(u.shape)}")
    if u.ndim == 3:
        check_shape("u", u, "(b, L, d), L as in paths,", batch, L, d)
    else:
        check_shape("u", u, "(b, K, L, d), K and L as in paths,", batch, K, L, d)
    check_shape("z", scan.z, "(b, L, d)", batch, L, d)
    return batch, K, L, d
