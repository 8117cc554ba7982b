"""Puts ``discovery/`` on ``nnUNet_extTrainer``, so that nnU-Net finds the trainers by name.

The start-up file ``nnunetv2_mamba.pth`` calls ``register`` in every Python process of the environment: this module must
stay small and import nothing but ``os``. ``NNUNETV2_MAMBA_AUTOREGISTER=0`` switches it off.
"""

import os

DISCOVERY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "discovery")  # noqa: PTH100, PTH118, PTH120


def register() -> None:
    """Add the folder ``discovery`` to ``nnUNet_extTrainer`` in this process and its children, unless switched off."""
    if os.environ.get("NNUNETV2_MAMBA_AUTOREGISTER") != "0":
        os.environ["nnUNet_extTrainer"] = with_discovery(os.environ.get("nnUNet_extTrainer", ""))


def with_discovery(ext_trainer: str) -> str:
    """``ext_trainer``, a value of ``nnUNet_extTrainer``, with ``discovery`` at its end unless it is there."""
    if not ext_trainer:
        return DISCOVERY
    present = {os.path.normcase(os.path.abspath(entry)) for entry in ext_trainer.split(os.pathsep)}  # noqa: PTH100
    return ext_trainer if os.path.normcase(DISCOVERY) in present else ext_trainer + os.pathsep + DISCOVERY
