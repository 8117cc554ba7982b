"""The values of preprocessed label maps, looked at before a training: one that the network has no output for ends it
deep in the loss, on a GPU with a device-side assertion, when the case is drawn for the first time."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_mamba.files import read_json_object, write_json
from nnunetv2_mamba.nnunet.preprocessed_files import label_map_file
from nnunetv2_mamba.text import first_few

_KEPT = "label_values"  # a folder beside that of the cases, where nnU-Net allows no other files
_MOST_AT_ONCE = 4  # each whole in memory; threads do, since neither unpacking nor counting holds Python's lock
_OUTSIDE = -1  # nnU-Net's preprocessing writes it where the image is zero


def check_labels(datasets: Iterable[nnUNetBaseDataset], labels: LabelManager) -> None:
    """Check that no label map has a value that ``dataset.json`` has not.

    What was found in a file is kept in the data set's folder ``label_values``, where that can be written, until the
    file changes: reading a thousand large ones takes minutes.

    Raises:
        FileNotFoundError: naming a case without a label map.
        ValueError: naming cases, values and remedy, or a case that cannot be read.
    """
    known = {int(value) for value in labels.all_labels}
    if not labels.has_regions and known != set(range(len(known))):  # an output's number is its label
        raise ValueError(
            f"the labels of dataset.json are {', '.join(map(str, sorted(known)))}; nnU-Net can only train 0, 1, 2, ... "
            "without a gap"
        )
    allowed = known | {_OUTSIDE} | ({int(labels.ignore_label)} if labels.has_ignore_label else set())
    seen: set[tuple[str, str]] = set()
    for dataset in datasets:
        cases = [case for case in dataset.identifiers if (dataset.source_folder, case) not in seen]
        seen.update((dataset.source_folder, case) for case in cases)  # fold all has those of the training twice
        found = _values(dataset, cases)
        wrong = {case: sorted(values - allowed) for case, values in found.items() if values - allowed}
        if wrong:
            told = (f"{case} has {', '.join(map(str, values))}" for case, values in wrong.items())
            raise ValueError(
                f"label maps in {dataset.source_folder} have values that dataset.json does not list "
                f"({', '.join(map(str, sorted(known)))}): {first_few(told, 5, '; ')}. Correct dataset.json or the "
                "label maps, delete that folder and preprocess again; nnUNetv2_plan_and_preprocess "
                "--verify_dataset_integrity and nnunetv2_mamba plan find such values before"
            )


def _values(dataset: nnUNetBaseDataset, cases: list[str]) -> dict[str, set[int]]:
    folder = Path(dataset.source_folder)
    file = folder.parent / _KEPT / f"{folder.name}.json"
    kept = _read_kept(file)
    # one without what a cascade's first stage predicts
    own = type(dataset)(dataset.source_folder, cases)
    stamps = {case: _stamp(folder, case) for case in own.identifiers}
    changed = [case for case, stamp in stamps.items() if not _is_of(kept.get(case), stamp)]
    workers = max(1, min(_MOST_AT_ONCE, get_allowed_n_proc_DA()))
    with ThreadPoolExecutor(workers) as pool:  # on several GPUs the others wait, and NCCL gives up after ten minutes
        values = dict(zip(changed, pool.map(partial(_read, own), changed), strict=True))
    entries = {**kept, **{case: {"file": stamps[case], "values": found} for case, found in values.items()}}
    if changed:
        with suppress(OSError):  # a folder that only its owner may write
            file.parent.mkdir(exist_ok=True)
            write_json(file, entries, indent=0)
    return {case: set(entries[case]["values"]) for case in stamps}


def _read_kept(file: Path) -> dict:
    try:
        return read_json_object(file)
    except (OSError, ValueError):  # none yet, or damaged
        return {}


def _is_of(entry: object, stamp: list[int]) -> bool:
    """Say whether a kept entry is one, and of this file."""
    if not isinstance(entry, dict) or entry.get("file") != stamp:
        return False
    values = entry.get("values")
    return isinstance(values, list) and all(type(value) is int for value in values)


def _stamp(folder: Path, case: str) -> list[int]:
    """Return size and time of the file with a case's label map."""
    information = label_map_file(folder, case).stat()
    return [information.st_size, information.st_mtime_ns]


def _read(dataset: nnUNetBaseDataset, case: str) -> list[int]:
    try:
        voxels = np.asarray(dataset.load_case(case)[1][:])
    except Exception as error:  # what the format's library raises of a damaged file
        raise ValueError(
            f"{case} in {dataset.source_folder} cannot be read ({error}); delete its files and preprocess again"
        ) from error
    if len(voxels) != 1:  # nnU-Net trains with the first one or with their sum
        raise ValueError(
            f"the label map of {case} in {dataset.source_folder} has {len(voxels)} channels: write a mask in colours "
            "as a grey one, delete that folder and preprocess again"
        )
    return sorted(int(value) for value in pandas.unique(voxels.ravel()))  # which does not sort the voxels
