"""Inputs laid out exactly as the platforms lay them out, made of nnU-Net's files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK

# A patient who lies askew: 20 degrees around the third axis, 10 around the first.
ASKEW = (
    np.array([[0.93969262, -0.34202014, 0], [0.34202014, 0.93969262, 0], [0, 0, 1]])
    @ np.array([[1, 0, 0], [0, 0.98480775, -0.17364818], [0, 0.17364818, 0.98480775]])
).ravel()
ORIGIN = (-91.3, 12.75, 1 / 3)
Cases = Mapping[str, Sequence[Path]]
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
SLUGS = tuple(f"mri-{channel}" for channel in range(len(MODALITIES)))

# Options of ``package`` for a model of these channels, of platforms that ask for any.
OPTIONS = {
    "grand-challenge": {
        "interface": [
            *("organs=output", "likely=probability:small", "ml=volumes"),
            *(f"{SLUGS[n]}={n}" for n in range(3)),
            f"{SLUGS[3]}=channel 3",
        ],
    },
    "brats": {"modalities": MODALITIES},
}


def grand_challenge(folder: Path, slugs: Sequence[str], images: Sequence[Path], key: str = "interface") -> Path:
    """One case as compressed ``.mha``, askew; the list of inputs also has a number, as platforms send them."""
    sockets = [{key: {"slug": slug, "relative_path": f"images/{slug}"}, "image": {"name": slug}} for slug in slugs]
    sockets.append({key: {"slug": "age", "relative_path": "age.json"}, "value": 61})
    folder.mkdir()
    (folder / "inputs.json").write_text(json.dumps(sockets))
    (folder / "age.json").write_text("61")
    for number, (slug, file) in enumerate(zip(slugs, images, strict=True)):
        image = SimpleITK.ReadImage(file)
        for name in image.GetMetaDataKeys():  # of NIfTI, which .mha has no place for
            image.EraseMetaData(name)
        image.SetDirection(ASKEW)
        image.SetOrigin(ORIGIN)
        (folder / "images" / slug).mkdir(parents=True)
        SimpleITK.WriteImage(image, folder / "images" / slug / f"6f1c-{number}.mha", useCompression=True)
    return folder


def brats(folder: Path, modalities: Sequence[str], cases: Cases) -> Path:
    """A folder per case; ``BraTS-GLI-00000-000`` and so on."""
    for name, images in cases.items():
        (folder / name).mkdir(parents=True)
        for modality, file in zip(modalities, images, strict=True):
            (folder / name / f"{name}-{modality}.nii.gz").write_bytes(file.read_bytes())
    return folder


def flare(folder: Path, cases: Cases) -> Path:
    folder.mkdir()
    for name, images in cases.items():
        for channel, file in enumerate(images):
            (folder / f"{name}_{channel:04d}.nii.gz").write_bytes(file.read_bytes())
    return folder


def truncate(file: Path) -> None:
    """What an interrupted copy leaves."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])


def voxels(file: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))


def geometry(file: Path) -> tuple:
    image = SimpleITK.ReadImage(file)
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def assert_same_labels(file: Path, reference: Path) -> None:
    """Check the labels that another process wrote, voxel by voxel."""
    np.testing.assert_array_equal(voxels(file), voxels(reference))
