"""Losses and what they need: tensors in, tensors out."""

from .class_weights import median_frequency_weights

__all__ = ["median_frequency_weights"]
