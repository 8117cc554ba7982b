"""Trainers for ``nnUNetv2_train -tr``, named as nnU-Net names its own.

Every network of ``architectures.registry`` has one, and one for each of its variants (``of_networks``); ``papers`` has
more. Each also exists in nnU-Net's training lengths: ``nnUNetTrainerSegMamba_1epoch``, ``_5epochs``, ``_10epochs``,
``_20epochs``, ``_50epochs``, ``_100epochs``, ``_250epochs``. Those are made when their name is first used; for editors
and type checkers all names stand in ``__init__.pyi``, which ``stub`` writes.
"""

from functools import cache

from .base import nnUNetTrainerMamba
from .lengths import LENGTHS, of_length
from .of_networks import TRAINERS
from .papers import PAPER_TRAINERS

FULL_LENGTH = {**TRAINERS, **{trainer.__name__: trainer for trainer in PAPER_TRAINERS}}

__all__ = [*FULL_LENGTH, *(name + suffix for name in FULL_LENGTH for suffix in LENGTHS)]


@cache
def __getattr__(name: str) -> type[nnUNetTrainerMamba]:
    base, underscore, length = name.rpartition("_")
    if name in FULL_LENGTH:
        return FULL_LENGTH[name]
    if base in FULL_LENGTH and underscore + length in LENGTHS:
        return of_length(FULL_LENGTH[base], underscore + length)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
