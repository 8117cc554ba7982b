"""Folders of small segmentations, as nnU-Net lays them out."""

import json
from pathlib import Path

import numpy as np
import SimpleITK
from masks import blobs

DATASET = {"labels": {"background": 0, "left": 1, "right": 2, "never there": 3}, "file_ending": ".nii.gz"}
PLANS = {
    "dataset_name": "Dataset902_Blobs",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "configurations": {},
}
SPACING = (2.0, 0.8, 1.1)  # slowest axis first


def write_image(path: Path, array: np.ndarray, spacing: tuple[float, ...] = SPACING) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, path)


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_cases(folder: Path, names: list[str], seed: int, values: tuple[int, ...] = (1, 2)) -> Path:
    """Random label maps, the same for a name and a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        volume = np.zeros((12, 14, 16), dtype=np.uint8)
        for value in values:
            volume[blobs(volume.shape, 1000 * seed + 10 * sum(name.encode()) + value)] = value
        write_image(folder / f"{name}.nii.gz", volume)
    return folder


def write_folders(root: Path, names: list[str]) -> tuple[Path, Path]:
    """References under a dataset.json, and predictions."""
    write_json(root / "dataset.json", DATASET)
    return write_cases(root / "labelsTs", names, 1), write_cases(root / "predictions", names, 2)


def write_results(root: Path, folds: dict[str, list[str]], splits: list[list[str]]) -> tuple[Path, Path]:
    """A trainer's results with the validation of some folds, and nnUNet_preprocessed with all references."""
    results = root / "results" / PLANS["dataset_name"] / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    preprocessed = root / "preprocessed" / PLANS["dataset_name"]
    write_json(results / "dataset.json", DATASET)
    write_json(results / "plans.json", PLANS)
    write_json(preprocessed / "splits_final.json", [{"train": [], "val": val} for val in splits])
    write_cases(preprocessed / "gt_segmentations", sorted(sum(splits, [])), 1)
    for fold, names in folds.items():
        write_cases(results / fold / "validation", names, 2)
    return results, preprocessed
