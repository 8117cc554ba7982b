"""Networks: usable without nnU-Net, built from an nnU-Net plan by ``from_plans``."""

from .medsegmamba import MedSegMamba
from .segmamba import SegMamba
from .umamba import UMambaBot, UMambaEnc

__all__ = ["MedSegMamba", "SegMamba", "UMambaBot", "UMambaEnc"]
