"""Networks: usable without nnU-Net, built from an nnU-Net plan by ``from_plans``."""

from .medsegmamba import MedSegMamba
from .msd_kmamba import MSDKMamba
from .segmamba import SegMamba
from .umamba import UMambaBot, UMambaEnc

__all__ = ["MSDKMamba", "MedSegMamba", "SegMamba", "UMambaBot", "UMambaEnc"]
