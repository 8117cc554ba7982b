"""UNETR, made of MONAI's blocks."""

from ..registry import RegisteredNetwork, register
from .network import UNETR

__all__ = ["UNETR"]

register(
    RegisteredNetwork(
        "UNETR",
        UNETR,
        summary="UNETR (2022), from MONAI: a vision transformer with a convolutional decoder, for one patch size",
        page="monai",
        paper="https://arxiv.org/abs/2103.10504",
        variants={},
        max_pool=4,
        recipe={
            "optimizer": "adamw",
            "initial_lr": 1e-4,
            "weight_decay": 1e-5,
            "warmup_share": 0.01,
            "enable_deep_supervision": False,
        },
        training="With nnU-Net's loop and AdamW. The learning rate of 1e-4 is the paper's; weight decay 1e-5 and the "
        "warm-up, over 1 % of the training, are those of its authors' script, whose decay is a cosine; here it is "
        "polynomial, as nnU-Net's. No deep supervision, as in the paper.",
        small={"features_per_stage": [4, 8, 16, 32, 24], "num_heads": 2},
    )
)
