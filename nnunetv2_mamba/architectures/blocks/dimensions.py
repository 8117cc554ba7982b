"""One network class for 2D and 3D: what the class of a convolution and its kernel say."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def spatial_dims(conv_op: type[nn.Module]) -> int:
    """Return the number of spatial axes: 2 for ``nn.Conv2d``, 3 for ``nn.Conv3d``, 1 for ``nn.Conv1d`` (blocks only).

    Raises:
        ValueError: for any other class.
    """
    for dims, op in ((1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)):
        if isinstance(conv_op, type) and issubclass(conv_op, op):
            return dims
    raise ValueError(f"conv_op must be torch.nn.Conv2d or torch.nn.Conv3d, got {conv_op!r}")


def same_padding(kernel_size: Sequence[int]) -> tuple[int, ...]:
    """Return the padding that keeps the size of the feature map at stride 1, for odd kernels."""
    return tuple(k // 2 for k in kernel_size)
