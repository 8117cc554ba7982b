"""``temperature.json`` beside a model's folds: how far its probabilities are to be softened.

``nnunetv2_mamba calibrate`` writes it; predictions with ``--calibrated`` divide the model's logits by the temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import Path as ZipPath

from .files import parse_json, write_json
from .json_numbers import is_finite_number

NAME = "temperature.json"
_BYTES = 1 << 20


class Temperature(NamedTuple):
    """What is read.

    Attributes:
        value: above 0; logits are divided by it.
        checkpoints: SHA-256 of those that it was fitted on, by their files in the model's folder,
            ``fold_0/checkpoint_final.pth``; older versions have not written them.
    """

    value: float
    checkpoints: dict[str, str]


def write_temperature(
    model: Path, temperature: float, how: Mapping[str, Any], checkpoints: Mapping[str, str] | None = None
) -> Path:
    """Write the file of a model's folder.

    Args:
        temperature, checkpoints: as ``Temperature`` has them.
        how: what else is to be known of it; nobody reads it but people.

    Returns:
        The file.
    """
    file = model / NAME
    write_json(file, {"temperature": temperature, "checkpoints": dict(checkpoints or {}), **how})
    return file


def read_temperature(model: Path | ZipPath) -> Temperature:
    """Read the temperature of a model's folder, or of one in a ZIP.

    Raises:
        OSError: where there is none.
        ValueError: for a file that does not say a temperature, or not in this way of which checkpoints it is.
    """
    file = model / NAME
    if not file.is_file():
        remedy = "make it with nnunetv2_mamba calibrate, or leave out --calibrated"
        if isinstance(model, ZipPath):
            remedy = "nnUNetv2_export_model_to_zip leaves it out, so give the model's folder"
        raise FileNotFoundError(f"{file} is missing: {remedy}")
    with file.open("rb") as stream:
        content = parse_json(stream.read(_BYTES), file)
    temperature = content.get("temperature") if isinstance(content, dict) else None
    if not is_finite_number(temperature) or temperature <= 0:
        raise ValueError(f"{file} has no 'temperature' above 0; make it again with nnunetv2_mamba calibrate")
    checkpoints = content.get("checkpoints", {})
    if not isinstance(checkpoints, dict):
        raise ValueError(f"{file}: 'checkpoints' is no object; make it again with nnunetv2_mamba calibrate")
    return Temperature(float(temperature), checkpoints)
