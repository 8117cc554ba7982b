"""The mathematics on sequences and grids: selective scans and causal convolutions along paths. Knows torch only."""

from nnunetv2_mamba.ops._causal_conv1d import causal_conv1d
from nnunetv2_mamba.ops._directional_scan import directional_scan
from nnunetv2_mamba.ops._selective_scan import selective_scan

__all__ = ["causal_conv1d", "directional_scan", "selective_scan"]
