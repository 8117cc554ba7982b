"""FreeSurfer subjects for tests, written as MGZ files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

# FreeSurfer's conformed volumes: axes to the left, down, to the front
LIA = np.array([[-1.0, 0, 0, 75], [0, 0, 1, -119], [0, -1, 0, 97], [0, 0, 0, 1]])
SHAPE = (40, 36, 44)
SUBFIELD_FILES = "hippoAmygLabels-T1.v22.FS60.FSvoxelSpace.mgz"


def write_subject(
    subjects_dir: Path, name: str, image: np.ndarray, aseg: np.ndarray, affine: np.ndarray = LIA, **more: np.ndarray
) -> Path:
    """Write ``mri/brainmask.mgz``, ``mri/aseg.mgz`` and the subfields ``lh`` and ``rh``; returns ``mri``."""
    mri = subjects_dir / name / "mri"
    mri.mkdir(parents=True)
    save(image, affine, mri / "brainmask.mgz")
    save(aseg.astype(np.int32), affine, mri / "aseg.mgz")
    for side, array in more.items():
        save(array.astype(np.int32), affine, mri / f"{side}.{SUBFIELD_FILES}")
    return mri


def save(array: np.ndarray, affine: np.ndarray, file: Path) -> None:
    nibabel.save(nibabel.MGHImage(array, affine), file)


def synthetic_aseg(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A small box of each structure of the subcortical task, and of the cortex (3, 42), which is none."""
    from nnunetv2_mamba.freesurfer.structures import TASKS

    aseg = np.zeros(shape, dtype=np.int32)
    aseg[2:-2, 2:-2, 2:20] = 3
    aseg[2:-2, 2:-2, 20:-2] = 42
    ids = list(TASKS["subcortical"].structures)
    for index, corner in enumerate(np.ndindex(4, 3, 3)):
        if index < len(ids):
            aseg[tuple(slice(4 + 8 * c, 8 + 8 * c + axis) for axis, c in enumerate(corner))] = ids[index]
    return aseg


def synthetic_image(aseg: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 20, aseg.shape)
    return np.where(aseg > 0, 40 + aseg + noise, 0).clip(0, 255).astype(np.uint8)


def turned(array: np.ndarray, affine: np.ndarray, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with other axes."""
    image = nibabel.Nifti1Image(array, affine)
    change = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(orientation)))
    image = image.as_reoriented(change)
    return np.asanyarray(image.dataobj), image.affine
