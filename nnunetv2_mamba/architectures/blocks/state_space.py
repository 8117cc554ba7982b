"""What every state-space model here has in common."""

from torch import nn


class StateSpaceModel(nn.Module):
    """A module that runs a scan of ``nnunetv2_mamba.ops``, whose backend is chosen by device."""
