"""Trainers of MSD-KMamba: the network with multi-scale self-distillation, and what isolates its parts."""

from dataclasses import replace

from nnunetv2_mamba.architectures import MSDKMamba

from .self_distillation import SelfDistillationTrainer


class nnUNetTrainerMSDKMamba(SelfDistillationTrainer):
    """MSD-KMamba-style network, taught by its own full-resolution head, with nnU-Net's recipe.

    SGD 1e-2, Nesterov momentum 0.99, polynomial decay: what SegMamba, its presumed ancestor, is trained with. The
    paper's numbers are not known; those of the distillation are chosen here
    (``self_distillation.SelfDistillationRecipe``).
    """

    planner = "MSDKMamba"
    network_class = MSDKMamba


class nnUNetTrainerMSDKMambaNoDistillation(nnUNetTrainerMSDKMamba):
    """The control without distillation: deep supervision alone, with nnU-Net's loss."""

    recipe = replace(nnUNetTrainerMSDKMamba.recipe, distillation_weight=0.0)


class nnUNetTrainerMSDKMambaNoKAN(nnUNetTrainerMSDKMamba):
    """The control with an MLP of the same cost in place of the KAN."""

    network_options = {"kan": "mlp"}


class nnUNetTrainerMSDKMambaNoMamba(nnUNetTrainerMSDKMamba):
    """The control without Mamba: the state-space part is the identity."""

    mixer = "none"


class nnUNetTrainerMSDKMambaConv(nnUNetTrainerMSDKMamba):
    """The control with a depthwise convolution in place of the state-space part."""

    mixer = "conv"


class nnUNetTrainerMSDKMambaFusedTeacher(nnUNetTrainerMSDKMamba):
    """Taught by a learned fusion of all its heads, which is trained as a head of its own and not used in prediction."""

    recipe = replace(nnUNetTrainerMSDKMamba.recipe, teacher="fused")


class nnUNetTrainerMSDKMambaEMATeacher(nnUNetTrainerMSDKMamba):
    """Taught by a copy of itself whose weights follow its own. Prediction uses the student."""

    recipe = replace(nnUNetTrainerMSDKMamba.recipe, teacher="ema")
