"""Trainers for ``nnUNetv2_train -tr``, named as nnU-Net names its own.

Every network of ``architectures.registry`` has one, and one for each of its variants (``of_networks``); ``papers`` has
more, and other packages may have (``extensions``). Each also exists in nnU-Net's training lengths:
``nnUNetTrainerSegMamba_1epoch``, ``_5epochs``, ``_10epochs``, ``_20epochs``, ``_50epochs``, ``_100epochs``,
``_250epochs``. Those are made, and trainers of other packages imported, when their name is first used; for editors and
type checkers the names of this package's stand in ``__init__.pyi``, which ``stub`` writes.
"""

from functools import cache

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from ..extensions import installed_trainers, load_trainer
from .base import nnUNetTrainerMamba
from .lengths import LENGTHS, of_length
from .of_networks import TRAINERS
from .papers import PAPER_TRAINERS

FULL_LENGTH = {**TRAINERS, **{trainer.__name__: trainer for trainer in PAPER_TRAINERS}}

__all__ = [*FULL_LENGTH, *(name + suffix for name in FULL_LENGTH for suffix in LENGTHS)]


@cache
def __getattr__(name: str) -> type[nnUNetTrainer]:
    if name.startswith("_"):  # no trainer: spares Python's own questions the search
        raise _no_attribute(name)
    if name in FULL_LENGTH:
        return FULL_LENGTH[name]
    if name in (installed := installed_trainers()):
        return load_trainer(installed[name])
    base, underscore, length = name.rpartition("_")
    if underscore + length in LENGTHS and (base in FULL_LENGTH or base in installed):
        trainer = __getattr__(base)
        if issubclass(trainer, nnUNetTrainerMamba):
            return of_length(trainer, underscore + length)
    raise _no_attribute(name)


def _no_attribute(name: str) -> AttributeError:
    return AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *installed_trainers()})
