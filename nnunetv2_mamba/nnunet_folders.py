"""nnU-Net's folders, which environment variables name."""

import os
from pathlib import Path


def nnunet_folder(variable: str) -> Path:
    """The folder that ``nnUNet_raw``, ``nnUNet_preprocessed`` or ``nnUNet_results`` names.

    Raises:
        ValueError: where the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise ValueError(f"{variable} is not set; set it to nnU-Net's folder, as nnU-Net's documentation says")
    return Path(value)
