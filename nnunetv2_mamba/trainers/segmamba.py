"""Trainers of SegMamba."""

from nnunetv2_mamba.architectures import SegMamba

from .base import nnUNetTrainerMamba


class nnUNetTrainerSegMamba(nnUNetTrainerMamba):
    """SegMamba with nnU-Net's recipe: SGD 1e-2, Nesterov momentum 0.99, polynomial decay, deep supervision.

    SegMamba's own script uses the same optimiser and schedule, and ToM layers are under 5 % of the weights; so the
    comparison with ``nnUNetTrainer`` differs in the network only. A_log, D and dt biases carry no weight decay.
    """

    planner = "SegMamba"
    network_class = SegMamba


class nnUNetTrainerSegMambaNoMamba(nnUNetTrainerSegMamba):
    """The control without Mamba: the state-space part is the identity."""

    mixer = "none"


class nnUNetTrainerSegMambaConv(nnUNetTrainerSegMamba):
    """The control with a depthwise convolution in place of the state-space part."""

    mixer = "conv"
