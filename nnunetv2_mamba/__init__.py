"""Mamba networks (SegMamba, MedSegMamba) as an nnU-Net v2 plugin.

Every Python process of the environment imports this file at start-up (see ``_register``), so it imports nothing: a
public name is loaded when it is first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .architectures import MedSegMamba, SegMamba
    from .ops import causal_conv1d, directional_scan, selective_scan

    __version__: str

_HOME = {
    "SegMamba": "architectures",
    "MedSegMamba": "architectures",
    "selective_scan": "ops",
    "directional_scan": "ops",
    "causal_conv1d": "ops",
}

__all__ = ["MedSegMamba", "SegMamba", "causal_conv1d", "directional_scan", "selective_scan"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("nnunetv2-mamba")
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
