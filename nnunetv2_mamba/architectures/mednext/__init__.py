"""MedNeXt in its sizes, made of MONAI's blocks."""

from ..registry import RegisteredNetwork, register
from .network import MedNeXt

__all__ = ["MedNeXt"]

for _size, _name in {"S": "MedNeXt", "B": "MedNeXtB", "M": "MedNeXtM", "L": "MedNeXtL"}.items():
    register(
        RegisteredNetwork(
            _name,
            MedNeXt,
            summary=f"MedNeXt-{_size} (2023), from MONAI: a U-Net of ConvNeXt blocks",
            page="monai",
            paper="https://arxiv.org/abs/2303.09975",
            options={"size": _size},
            variants={},
            max_pool=4,
            recipe={"optimizer": "adamw", "initial_lr": 1e-3},
            training="With nnU-Net's loop, as its authors train it, and AdamW with the paper's learning rate of 1e-3. "
            "Deep supervision, too, is the paper's; nnU-Net's has no head at the lowest resolution.",
            small={"features_per_stage": [4, 8, 16]},
        )
    )
