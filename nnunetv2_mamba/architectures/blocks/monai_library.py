"""MONAI (Apache-2.0), of whose networks some here are made: imported when the first of them is built."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily


def monai(module: str) -> ModuleType:
    """Return ``monai.MODULE``, such as ``networks.nets``.

    Importing any part of MONAI imports all of it, which takes seconds; so it happens when a network is built. That may
    be under fake tensors or on the meta device: what a module keeps is made without.
    """
    with unset_fake_temporarily(), torch.device("cpu"):
        return import_module(f"monai.{module}")
