"""Swin UNETR, made of MONAI's blocks."""

from ..registry import RegisteredNetwork, register
from .network import SwinUNETR

__all__ = ["SwinUNETR"]

register(
    RegisteredNetwork(
        "SwinUNETR",
        SwinUNETR,
        summary="Swin UNETR (2022), from MONAI: attention in shifted windows, with a convolutional decoder",
        page="monai",
        paper="https://arxiv.org/abs/2201.01266",
        variants={},
        max_pool=5,
        recipe={
            "optimizer": "adamw",
            "initial_lr": 1e-4,
            "weight_decay": 1e-5,
            "warmup_share": 0.17,
            "enable_deep_supervision": False,
        },
        training="With nnU-Net's loop and AdamW. Learning rate 1e-4, weight decay 1e-5 and the warm-up, over a sixth "
        "of the training, are those of its authors' script (the paper has 8e-4, on eight GPUs); its decay is a cosine, "
        "here it is polynomial, as nnU-Net's. No deep supervision, as in the paper.",
        small={"features_per_stage": [12, 12, 24, 48, 96, 192], "depths": [1, 1, 1, 1], "window_size": 4},
    )
)
