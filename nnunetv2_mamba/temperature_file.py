"""``temperature.json`` beside a model's folds: how far its probabilities are to be softened.

``nnunetv2_mamba calibrate`` writes it; predictions with ``--calibrated`` divide the model's logits by the temperature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import Path as ZipPath

from .files import parse_json, write_json
from .json_numbers import is_finite_number

NAME = "temperature.json"
_BYTES = 1 << 20


def write_temperature(model: Path, temperature: float, how: dict[str, Any]) -> Path:
    """Write the file of a model's folder.

    Args:
        temperature: above 0; logits are divided by it.
        how: what else is to be known of it; nobody reads it but people.

    Returns:
        The file.
    """
    file = model / NAME
    write_json(file, {"temperature": temperature, **how})
    return file


def read_temperature(model: Path | ZipPath) -> float:
    """Read the temperature of a model's folder, or of one in a ZIP.

    Raises:
        OSError: where there is none.
        ValueError: for a file that does not say a temperature.
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
    return float(temperature)
