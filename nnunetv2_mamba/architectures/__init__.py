"""Networks: usable without nnU-Net, built from an nnU-Net plan by ``from_plans``.

Every folder here is imported, and those of networks register what they hold (``registry``); then modules of other
packages (``extensions``).
"""

from importlib import import_module
from pkgutil import iter_modules

from ..extensions import load_parts
from .mednext import MedNeXt
from .medsegmamba import MedSegMamba
from .msd_kmamba import MSDKMamba
from .registry import NETWORKS
from .segmamba import SegMamba
from .segresnet import SegResNet, SegResNetDS
from .swin_unetr import SwinUNETR
from .umamba import UMambaBot, UMambaEnc
from .umamba2 import UMamba2
from .unetr import UNETR

for _module in iter_modules(__path__):
    if _module.ispkg:
        import_module(f"{__name__}.{_module.name}")

__all__ = [
    "UNETR",
    "MSDKMamba",
    "MedNeXt",
    "MedSegMamba",
    "SegMamba",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UMamba2",
    "UMambaBot",
    "UMambaEnc",
]


def __getattr__(name: str) -> type:
    """Return the class of any registered network: plans name it as an attribute of this package."""
    if name in NETWORKS and NETWORKS[name].network_class.__name__ == name:
        return NETWORKS[name].network_class
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


load_parts()  # last: those import what stands above
