"""Trainers of MedSegMamba and of its relatives with another bottleneck."""

from nnunetv2_mamba.architectures import MedSegMamba

from .base import nnUNetTrainerMamba
from .recipe import Recipe


class nnUNetTrainerMedSegMamba(nnUNetTrainerMamba):
    """MedSegMamba with nnU-Net's loop and AdamW.

    Most of the weights sit in a pre-norm token mixer and MLP, as in a transformer; the paper trains it with AdamW but
    does not give its numbers. These are nnU-Net's for its transformers (Primus, Wald et al. 2025, arXiv 2503.01835):
    learning rate 3e-4, weight decay 5e-2 (none on biases, norms, A_log, D and dt biases), 5 % warm-up, gradients
    clipped to norm 1, polynomial decay.
    """

    planner = "MedSegMamba"
    network_class = MedSegMamba
    network_options = {"bottleneck": "ss3d"}
    recipe = Recipe(optimizer="adamw", initial_lr=3e-4, weight_decay=5e-2, warmup_share=0.05, gradient_clip=1.0)


class nnUNetTrainerMedSegMambaNoMamba(nnUNetTrainerMedSegMamba):
    """The control without Mamba: the state-space part is the identity."""

    mixer = "none"


class nnUNetTrainerMedSegMambaConv(nnUNetTrainerMedSegMamba):
    """The control with a depthwise convolution in place of the state-space part."""

    mixer = "conv"


class nnUNetTrainerSegMambaBot(nnUNetTrainerMedSegMamba):
    """SegMambaBot, the MedSegMamba paper's comparator: SegMamba's tri-oriented Mamba in the bottleneck."""

    planner = "SegMambaBot"
    network_options = {"bottleneck": "tom"}


class nnUNetTrainerSegMambaBotNoMamba(nnUNetTrainerSegMambaBot):
    """The control without Mamba: the state-space part is the identity."""

    mixer = "none"


class nnUNetTrainerSegMambaBotConv(nnUNetTrainerSegMambaBot):
    """The control with a depthwise convolution in place of the state-space part."""

    mixer = "conv"


class nnUNetTrainerTABSurfer(nnUNetTrainerMedSegMamba):
    """TABSurfer, the MedSegMamba paper's other comparator: transformer layers in the bottleneck."""

    planner = "TABSurfer"
    network_options = {"bottleneck": "transformer"}


class nnUNetTrainerTABSurferNoMamba(nnUNetTrainerTABSurfer):
    """The control without attention, which is the identity."""

    mixer = "none"


class nnUNetTrainerTABSurferConv(nnUNetTrainerTABSurfer):
    """The control with a depthwise convolution in place of the attention."""

    mixer = "conv"
