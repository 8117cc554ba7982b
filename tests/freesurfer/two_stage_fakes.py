"""Fake models that threshold intensities, a scene for them, and one case through both.

The first model marks bright (1) and brighter (2) voxels, the second the same two in its box, plus 3 where it sees the
end of each axis of its input.
"""

import struct
from types import SimpleNamespace

import nibabel
import numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from subjects import LIA, save

from nnunetv2_mamba.freesurfer.folder_prediction import predict_cases
from nnunetv2_mamba.freesurfer.two_stage import Stage, TwoStage

READERS = [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient]
LEFT, RIGHT = 150, 220
IDS = {"left": 1203, "right": 2203, "corner": 77}


class FakePredictor:
    """In place of nnU-Net's; ``seen`` has what it was given: the first channel and the spacing."""

    def __init__(self, labels, patch=(8, 8, 8), reader=SimpleITKIO, **description):
        self.dataset_json = {"channel_names": {"0": "T1"}, "labels": {"background": 0, **labels}, **description}
        self.plans_manager = SimpleNamespace(image_reader_writer_class=reader, transpose_backward=[0, 1, 2])
        self.configuration_manager = SimpleNamespace(patch_size=patch, spacing=[1.0] * len(patch))
        self.seen = []

    def predict_single_npy_array(self, array, properties, previous, output, probabilities):
        assert array.dtype == np.float32 and array.ndim == 4 and np.isfinite(array).all()
        self.seen.append((array[0].copy(), properties["spacing"]))
        segmentation = np.where(array[0] > 200, 2, np.where(array[0] > 100, 1, 0)).astype(np.uint8)
        if 3 in self.dataset_json["labels"].values():
            segmentation[-1, -1, -1] = 3
        return segmentation


def models(first=None, second=None, **options):
    first = first or FakePredictor({"left": 1, "right": 2}, orientation="LIA")
    second = second or FakePredictor(
        {"left": 1, "right": 2, "corner": 3}, orientation="LIA", freesurfer_ids=IDS, roi_box_mm=[8, 12, 16]
    )
    return TwoStage(Stage(first), Stage(second), ("left", "right"), **options)


def scene(left=((20, 23), (10, 14), (12, 16)), right=((10, 13), (10, 14), (12, 16)), shape=(40, 30, 50)):
    array = np.full(shape, 10, dtype=np.uint8)
    for value, ranges in ((LEFT, left), (RIGHT, right)):
        if ranges:
            array[tuple(slice(*limits) for limits in ranges)] = value
    return array


def predict(tmp_path, array, affine=LIA, two_stage=None, name="case_0000.nii.gz"):
    """The segmentation of one image and its file."""
    (tmp_path / "in").mkdir(exist_ok=True)
    if name.endswith(".mgz"):
        save(array, affine, tmp_path / "in" / name)
    else:
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "in" / name)
    assert predict_cases(two_stage or models(), tmp_path / "in", tmp_path / "out") == []
    image = nibabel.load(tmp_path / "out" / "case.nii.gz")
    return np.asanyarray(image.dataobj), image


def expected_ids(array):
    return np.select([array == LEFT, array == RIGHT], [1203, 2203], 0)


def with_other_sform(array, affine, sform):
    """The bytes of a NIfTI file whose qform and voxel sizes say one thing and whose sform another."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    content = bytearray(image.to_bytes())
    struct.pack_into("<12f", content, 280, *np.asarray(sform, dtype=float)[:3].ravel())
    return bytes(content)
