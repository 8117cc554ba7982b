"""The files in which nnU-Net keeps preprocessed cases: ``.b2nd`` and ``.pkl``, or ``.npz``, unpacked to ``.npy``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def label_map_file(folder: Path, case: str) -> Path:
    """The file with the label map of a case.

    Raises:
        FileNotFoundError: if there is none.
    """
    for name in (f"{case}_seg.b2nd", f"{case}_seg.npy", f"{case}.npz"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no label map of {case}; preprocess again")


def is_complete(folder: Path, cases: Collection[str]) -> bool:
    """Whether every case is there, with its ``.pkl``, which nnU-Net writes last."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return all(f"{case}.pkl" in names and {f"{case}.b2nd", f"{case}.npz"} & names for case in cases)
