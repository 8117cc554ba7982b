"""MSD-KMamba, a reconstruction: the network and its blocks."""

from ..registry import CONTROLS, MAMBA2, RegisteredNetwork, Variant, register
from .network import MSDKMamba

__all__ = ["MSDKMamba"]

register(
    RegisteredNetwork(
        "MSDKMamba",
        MSDKMamba,
        summary="MSD-KMamba (2025), reconstructed from its abstract: bidirectional Mamba, Kolmogorov-Arnold blocks",
        page="msd_kmamba",
        paper="https://arxiv.org/abs/2509.23677",
        variants={
            **CONTROLS,
            **MAMBA2,
            "NoKAN": Variant("The control with an MLP of the same cost in place of the KAN.", {"kan": "mlp"}),
            "NoDistillation": Variant(
                "The control without distillation: deep supervision alone, with nnU-Net's loss.",
                recipe={"distillation_weight": 0.0},
            ),
            "FusedTeacher": Variant(
                "Taught by a learned fusion of all its heads, which is trained as a head of its own and not used in "
                "prediction.",
                recipe={"teacher": "fused"},
            ),
            "EMATeacher": Variant(
                "Taught by a copy of itself whose weights follow its own. Prediction uses the student.",
                recipe={"teacher": "ema"},
            ),
        },
        training="Taught by its own full-resolution head, with nnU-Net's recipe: SGD 1e-2, Nesterov momentum 0.99, "
        "polynomial decay, what SegMamba, its presumed ancestor, is trained with. The paper's numbers are not known; "
        "those of the distillation are chosen here (self_distillation.SelfDistillationRecipe).",
        small={"n_mamba_layers_per_stage": 1},
    )
)
