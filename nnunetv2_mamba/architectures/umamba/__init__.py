"""U-Mamba: the networks, their blocks, and their released weights."""

from ..registry import RegisteredNetwork, register
from .network import UMambaBot, UMambaEnc

__all__ = ["UMambaBot", "UMambaEnc"]

_PAPER = "https://arxiv.org/abs/2401.04722"
_TRAINING = "With nnU-Net's recipe, as its authors train it."

register(
    RegisteredNetwork(
        "UMambaBot",
        UMambaBot,
        summary="U-Mamba (2024): a residual U-Net with a Mamba layer in the bottleneck",
        page="umamba",
        paper=_PAPER,
        training=_TRAINING,
    )
)
register(
    RegisteredNetwork(
        "UMambaEnc",
        UMambaEnc,
        summary="U-Mamba (2024) with Mamba layers throughout the encoder; its weights belong to one patch size",
        page="umamba",
        paper=_PAPER,
        training=_TRAINING,
    )
)
