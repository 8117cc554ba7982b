"""Fine-tuning from a self-supervised pre-training that the plan names (``pretrain_info``, as nnU-Net writes it)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnunetv2_mamba.architectures.contract import PlannedNetwork
from nnunetv2_mamba.architectures.pretrained_encoder import load_pretrained_encoder
from nnunetv2_mamba.untrusted.checkpoints import read_plain


def load_pretraining(network: PlannedNetwork, plans: Mapping[str, Any], log: Callable[..., None]) -> None:
    """Load the encoder of ``plans["pretrain_info"]["checkpoint_path"]``; do nothing where the plan names none.

    Args:
        network: changed in place.
        plans: nnU-Net's plans file.
        log: called with a line of text.

    Raises:
        ValueError: naming the file, if it is missing, damaged, or of a network that does not fit.
    """
    path = (plans.get("pretrain_info") or {}).get("checkpoint_path")
    if path is None:
        return
    try:
        missing = load_pretrained_encoder(network, read_plain(Path(path), "it"))
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path}, which pretrain_info of the plans {plans.get('plans_name')} names, cannot be loaded: {error}"
        ) from error
    log(f"Encoder pre-trained by {path}. Not pre-trained: {', '.join(missing) or 'the decoder alone'}")
