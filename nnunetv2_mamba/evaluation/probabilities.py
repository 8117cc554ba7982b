"""The network's probabilities as nnU-Net writes them with ``--npz`` and ``--save_probabilities``: a stranger's file.

``CASE.npz`` has one array, ``probabilities``: heads x the image's axes as nnU-Net's reader gives them. Transposition
and cropping are undone in it; outside of the crop the background has probability 1, or every region 0.
"""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..image_files import check_complete
from ..text import excerpt, short_reason

REMEDY = "nnUNetv2_predict writes them with --save_probabilities, a validation with nnUNetv2_train ... --val --npz"
_MEMBER = "probabilities.npy"
_DAMAGE = (
    EOFError, KeyError, NotImplementedError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
    lzma.LZMAError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelProbability:
    """A label's probability and whether the reference has the label, in all voxels that count.

    Attributes:
        values: float, from 0 to 1.
        member: bool, of the same length.
    """

    values: np.ndarray
    member: np.ndarray


def read_probabilities(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the probabilities of a case.

    Nothing of another size than ``shape`` is allocated, whatever the file claims, and nothing in it runs.

    Args:
        shape: that the array must have: heads, then the image's axes.

    Raises:
        ValueError: naming the file: it is missing, damaged, of another shape, or has values that are no probabilities.
    """
    check_complete(file)
    try:
        with zipfile.ZipFile(file) as archive:
            with archive.open(_MEMBER) as stream:
                found, dtype = _read_header(stream)
            if found == shape and dtype.kind == "f":
                with archive.open(_MEMBER) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
    except _DAMAGE as error:
        raise ValueError(f"{file} is damaged, or no file of probabilities ({short_reason(error)}); {REMEDY}") from error
    if found != shape:
        raise ValueError(
            f"{file} has an array of shape {excerpt(found)}, where the labels and the image make {shape} (heads of the "
            "network, voxels); it must be of this case, and of a network with these labels"
        )
    if dtype.kind != "f":
        raise ValueError(f"{file} has values of type {excerpt(dtype)}, no probabilities; {REMEDY}")
    if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        raise ValueError(f"{file} has values that are no probabilities from 0 to 1; {REMEDY}")
    return array


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and type of a ``.npy`` file."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:  # other versions are for longer headers
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, dtype
