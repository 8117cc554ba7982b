"""Where nnU-Net's preprocessing, of this version and of older ones, puts a case."""

import os
import pickle

import pytest
from tiny_dataset import NAME

from nnunetv2_mamba.nnunet.preprocessed_files import cases_segmented_by_fold_all, is_complete, label_map_file


def test_what_nnunet_has_just_preprocessed(tiny_dataset):
    folder = tiny_dataset.preprocessed / NAME / "nnUNetPlans_3d_fullres"
    cases = sorted(path.stem for path in folder.glob("*.pkl"))
    assert cases and is_complete(folder, cases)
    assert label_map_file(folder, cases[0]).name == f"{cases[0]}_seg.b2nd"


@pytest.mark.parametrize(
    ("files", "complete", "label_map"),
    [
        (["a.b2nd", "a_seg.b2nd", "a.pkl"], True, "a_seg.b2nd"),
        (["a.npz", "a.pkl"], True, "a.npz"),
        (["a.npz", "a.pkl", "b.npz", "b.pkl"], False, "a.npz"),  # b is in the raw data no more
        (["a.npz", "a.npy", "a_seg.npy", "a.pkl"], True, "a_seg.npy"),
        (["a.b2nd", "a_seg.b2nd"], False, "a_seg.b2nd"),
        (["a.pkl"], False, None),
        (["b.npz", "b.pkl"], False, None),
    ],
)
def test_cases_by_their_files(tmp_path, files, complete, label_map):
    for name in files:
        (tmp_path / name).write_bytes(pickle.dumps({"spacing": [1.0, 1.0, 1.0]}))
    assert is_complete(tmp_path, ["a"]) is complete
    if label_map is None:
        with pytest.raises(FileNotFoundError, match="has no label map of a; preprocess again"):
            label_map_file(tmp_path, "a")
    else:
        assert label_map_file(tmp_path, "a") == tmp_path / label_map


@pytest.mark.parametrize("kept", [0, 20])
def test_half_a_case_is_none(tmp_path, kept):
    """nnU-Net's loaders would read it in mid-training."""
    (tmp_path / "a.b2nd").touch()
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"spacing": [1.0, 1.0, 1.0]})[:kept])
    assert not is_complete(tmp_path, ["a"])


def test_a_folder_that_is_missing_is_complete_for_no_case(tmp_path):
    assert not is_complete(tmp_path / "none", ["a"]) and is_complete(tmp_path / "none", [])


@pytest.mark.parametrize(
    ("times", "leaking"),
    [
        ({}, []),
        ({"fold_0/a": 1, "fold_1/b": 1}, []),
        ({"fold_0/a": 1, "fold_1/b": 3, "fold_all/a": 2, "fold_all/b": 2}, ["a"]),
        ({"fold_0/a": 3, "fold_1/b": 3, "fold_all/a": 2, "fold_all/b": 2}, []),
        ({"fold_all/a": 2, "fold_all/b": 2}, ["a", "b"]),
    ],
)
def test_whose_segmentation_a_second_stage_is_given(tmp_path, times, leaking):
    for name, time in times.items():
        fold, case = name.split("/")
        file = tmp_path / fold / "validation" / f"{case}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (time, time))
    assert cases_segmented_by_fold_all(tmp_path, {"a", "b"}, ".nii.gz") == leaking
