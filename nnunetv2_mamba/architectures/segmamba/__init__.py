"""SegMamba: the network, its blocks, and its released weights."""

from ..registry import RegisteredNetwork, register
from .network import SegMamba

__all__ = ["SegMamba"]

register(
    RegisteredNetwork(
        "SegMamba",
        SegMamba,
        summary="SegMamba (MICCAI 2024): tri-oriented Mamba in a UNETR-like network",
        page="segmamba",
        paper="https://arxiv.org/abs/2401.13560",
        max_pool=4,  # five stages as in the paper, where nnU-Net would have up to seven
        training="With nnU-Net's recipe: SGD 1e-2, Nesterov momentum 0.99, polynomial decay, deep supervision. "
        "SegMamba's own script uses the same optimiser and schedule, and ToM layers are under 5 % of the weights; so "
        "the comparison with nnUNetTrainer differs in the network only. A_log, D and dt biases carry no weight decay.",
        small={"n_tom_layers_per_stage": 1},
    )
)
