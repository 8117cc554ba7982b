"""U-Mamba2: the network and its released weights."""

from ..registry import CONTROLS, RegisteredNetwork, register
from .network import UMamba2

__all__ = ["UMamba2"]

register(
    RegisteredNetwork(
        "UMamba2",
        UMamba2,
        summary="U-Mamba2 (2025): nnU-Net's residual encoder U-Net with a Mamba-2 layer in the bottleneck",
        page="umamba2",
        paper="https://arxiv.org/abs/2509.12069",
        variants=CONTROLS,
        training="With nnU-Net's recipe. What is published of its own training is in nnUNetTrainerUMamba2Paper.",
        small={"n_blocks_per_stage": 2},
    )
)
