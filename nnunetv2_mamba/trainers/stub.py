"""Every trainer by name, for editors and type checkers: ``python -m nnunetv2_mamba.trainers.stub`` writes
``__init__.pyi``, and a test compares it."""

from __future__ import annotations

from pathlib import Path

from nnunetv2_mamba import trainers
from nnunetv2_mamba.files import write_text

FILE = Path(__file__).with_name("__init__.pyi")
_HEAD = '''"""Written by ``python -m nnunetv2_mamba.trainers.stub``; see ``__init__.py``."""

from .base import nnUNetTrainerMamba
from .self_distillation import SelfDistillationTrainer

FULL_LENGTH: dict[str, type[nnUNetTrainerMamba]]
'''


def stub() -> str:
    """Return the text of the file."""
    lines = [_HEAD]
    lines += [f"class {name}({getattr(trainers, name).__bases__[0].__name__}): ..." for name in trainers.__all__]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    write_text(FILE, stub())
