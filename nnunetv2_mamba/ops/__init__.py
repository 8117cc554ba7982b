"""The mathematics on sequences and grids: selective scans and causal convolutions along paths. Knows torch only."""

import torch

from nnunetv2_mamba.ops._causal_conv1d import causal_conv1d
from nnunetv2_mamba.ops._directional_scan import directional_scan
from nnunetv2_mamba.ops._directional_ssd import directional_ssd
from nnunetv2_mamba.ops._selective_scan import selective_scan

__all__ = ["KEPT_BY_CHECKPOINTING", "causal_conv1d", "directional_scan", "directional_ssd", "selective_scan"]

# Operators whose results activation checkpointing keeps: computing them again costs more than their memory.
KEPT_BY_CHECKPOINTING = (
    torch.ops.nnunetv2_mamba.directional_scan.default,
    torch.ops.nnunetv2_mamba.directional_ssd.default,
)
