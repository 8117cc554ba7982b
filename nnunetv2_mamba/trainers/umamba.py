"""Trainers of U-Mamba."""

from nnunetv2_mamba.architectures import UMambaBot, UMambaEnc

from .base import nnUNetTrainerMamba


class nnUNetTrainerUMambaBot(nnUNetTrainerMamba):
    """UMambaBot with nnU-Net's recipe, as its authors train it."""

    planner = "UMambaBot"
    network_class = UMambaBot


class nnUNetTrainerUMambaBotNoMamba(nnUNetTrainerUMambaBot):
    """The control without Mamba: the state-space part is the identity."""

    mixer = "none"


class nnUNetTrainerUMambaBotConv(nnUNetTrainerUMambaBot):
    """The control with a depthwise convolution in place of the state-space part."""

    mixer = "conv"


class nnUNetTrainerUMambaEnc(nnUNetTrainerMamba):
    """UMambaEnc with nnU-Net's recipe, as its authors train it. Its weights belong to the plan's patch size."""

    planner = "UMambaEnc"
    network_class = UMambaEnc


class nnUNetTrainerUMambaEncNoMamba(nnUNetTrainerUMambaEnc):
    """The control without Mamba: the state-space part is the identity."""

    mixer = "none"


class nnUNetTrainerUMambaEncConv(nnUNetTrainerUMambaEnc):
    """The control with a depthwise convolution in place of the state-space part."""

    mixer = "conv"
