"""SegResNet and SegResNetDS, made of MONAI's blocks."""

from ..registry import RegisteredNetwork, register
from .deep_supervision import SegResNetDS
from .network import SegResNet

__all__ = ["SegResNet", "SegResNetDS"]

register(
    RegisteredNetwork(
        "SegResNet",
        SegResNet,
        summary="SegResNet (2018), from MONAI: a residual U-Net, without its paper's autoencoder",
        page="monai",
        paper="https://arxiv.org/abs/1810.11654",
        variants={},
        max_pool=3,
        recipe={"optimizer": "adamw", "initial_lr": 1e-4, "weight_decay": 1e-5, "enable_deep_supervision": False},
        training="With nnU-Net's loop and AdamW, where the paper has Adam. Learning rate 1e-4, weight decay 1e-5 and "
        "the polynomial decay are the paper's. No deep supervision, as in the paper.",
        small={"features_per_stage": [8, 16, 32], "dropout": 0.0},
    )
)
register(
    RegisteredNetwork(
        "SegResNetDS",
        SegResNetDS,
        summary="SegResNetDS, from MONAI: the SegResNet of Auto3DSeg, for anisotropic images and with deep supervision",
        page="monai",
        variants={},
        max_pool=4,
        recipe={"optimizer": "adamw", "initial_lr": 2e-4, "weight_decay": 1e-5, "warmup_share": 0.01},
        training="With nnU-Net's loop and AdamW. Learning rate 2e-4, weight decay 1e-5 and warm-up are Auto3DSeg's, "
        "whose decay is a cosine; here it is polynomial, as nnU-Net's. Deep supervision with nnU-Net's weights.",
        small={"features_per_stage": [8, 16, 32]},
    )
)
