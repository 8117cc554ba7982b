"""MedSegMamba and its comparators: the network, its blocks, and its released weights."""

from ..registry import RegisteredNetwork, Variant, register
from .network import MedSegMamba

__all__ = ["MedSegMamba"]

_COMMON = {
    "network_class": MedSegMamba,
    "page": "medsegmamba",
    "paper": "https://arxiv.org/abs/2409.08307",
    "max_pool": 3,  # four stages as in the paper, so that the bottleneck has tokens to scan
    "recipe": {
        "optimizer": "adamw",
        "initial_lr": 3e-4,
        "weight_decay": 5e-2,
        "warmup_share": 0.05,
        "gradient_clip": 1.0,
    },
    "training": "With nnU-Net's loop and AdamW. Most of the weights sit in a pre-norm token mixer and MLP, as in a "
    "transformer; the paper trains it with AdamW but does not give its numbers. These are nnU-Net's for its "
    "transformers (Primus, Wald et al. 2025, arXiv 2503.01835): learning rate 3e-4, weight decay 5e-2 (none on biases, "
    "norms, A_log, D and dt biases), 5 % warm-up, gradients clipped to norm 1, polynomial decay.",
    "small": {"bottleneck_channels": 32, "n_bottleneck_blocks": 2},
}

register(
    RegisteredNetwork(
        "MedSegMamba",
        summary="MedSegMamba (2024): serpentine scans in the bottleneck of a CNN",
        options={"bottleneck": "ss3d"},
        **_COMMON,
    )
)
register(
    RegisteredNetwork(
        "SegMambaBot",
        summary="MedSegMamba with SegMamba's tri-oriented Mamba in the bottleneck, its paper's comparator",
        options={"bottleneck": "tom"},
        **_COMMON,
    )
)
register(
    RegisteredNetwork(
        "TABSurfer",
        summary="MedSegMamba with transformer layers in the bottleneck, its paper's other comparator",
        options={"bottleneck": "transformer"},
        variants={
            "NoMamba": Variant("The control without attention, which is the identity.", {"mixer": "none"}),
            "Conv": Variant("The control with a depthwise convolution in place of the attention.", {"mixer": "conv"}),
        },
        **_COMMON,
    )
)
