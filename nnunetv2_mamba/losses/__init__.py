"""Losses and what they need: tensors in, tensors out."""

from .class_weights import median_frequency_weights
from .self_distillation import SelfDistillationLoss

__all__ = ["SelfDistillationLoss", "median_frequency_weights"]
