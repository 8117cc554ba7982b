"""The files in which nnU-Net keeps preprocessed cases: ``.b2nd`` and ``.pkl``, or ``.npz``, unpacked to ``.npy``."""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

N_FOLDS = 5  # that nnU-Net makes where there is no splits_final.json


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
    """Whether these cases are there, each with its whole ``.pkl``, which nnU-Net writes last, and no others.

    nnU-Net makes splits of all cases in the folder, also of one that was taken away from the raw data since.
    """
    names = _names(folder)
    finished = {name.removesuffix(".pkl") for name in names if name.endswith(".pkl")}
    return finished == set(cases) and all(
        {f"{case}.b2nd", f"{case}.npz"} & names and _is_whole(folder / f"{case}.pkl") for case in cases
    )


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _is_whole(file: Path) -> bool:
    """Whether a pickle has its end, which a full disk or a killed process does not leave."""
    with file.open("rb") as stream:
        stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
        return stream.read() == pickle.STOP


def changed_since(folder: Path, sources: Mapping[str, Iterable[Path]]) -> list[str]:
    """The cases of a complete folder that have a file, of those they were made of, written after they were, in order.

    Args:
        sources: files by case.
    """
    made = {case: (folder / f"{case}.pkl").stat().st_mtime_ns for case in sources}
    return sorted(case for case in sources if any(file.stat().st_mtime_ns > made[case] for file in sources[case]))


def cases_not_segmented(folder: Path, cases: Collection[str]) -> list[str]:
    """The cases of which a cascade's first stage has left no segmentation in ``folder``, in order."""
    names = _names(folder)
    return sorted(case for case in cases if not {f"{case}{ending}" for ending in (".b2nd", ".npy", ".npz")} & names)


def cases_segmented_by_fold_all(first_stage: Path, cases: Collection[str], ending: str) -> list[str]:
    """The cases of which a cascade's first stage has its last segmentation from ``fold_all``, in order.

    All folds segment into the same folder for the second stage, and ``fold_all`` cases that it was trained with.

    Args:
        first_stage: its model's folder, in which each fold keeps what it validated last.
        ending: of segmentations, such as ``.nii.gz``.
    """
    of_all = first_stage / "fold_all" / "validation"
    others = [folder for folder in first_stage.glob("fold_*/validation") if folder != of_all]

    def newest(folders: Iterable[Path], case: str) -> int:
        files = (folder / f"{case}{ending}" for folder in folders)
        return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=-1)

    return sorted(case for case in cases if newest([of_all], case) > newest(others, case))
