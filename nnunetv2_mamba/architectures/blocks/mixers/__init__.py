"""Sequence mixers by name: modules that take tokens and their grid, and give tokens.

A mixer is a file in this folder that registers a class; every network then takes its name as ``mixer``.
"""

from importlib import import_module
from pkgutil import iter_modules

from .registry import MIXERS, OWN_MIXERS, MixerOptions, SequenceMixer, check_mixer, register_mixer, sequence_mixer

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["MIXERS", "OWN_MIXERS", "MixerOptions", "SequenceMixer", "check_mixer", "register_mixer", "sequence_mixer"]
