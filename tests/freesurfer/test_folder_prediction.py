"""Which files of a folder are cases, what is never written over, and how failures are told."""

import errno
import gzip
import os

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from subjects import LIA, save
from two_stage_fakes import FakePredictor, models, scene

from nnunetv2_mamba.freesurfer import volumes
from nnunetv2_mamba.freesurfer.folder_prediction import cases_in_folder, predict_cases


def files(folder, *names):
    for name in names:
        (folder / name).touch()


def names(folder, n_channels=1):
    return {name: [file.name for file in files] for name, files in cases_in_folder(folder, n_channels).items()}


def image(file, array=None):
    file.parent.mkdir(exist_ok=True)
    if file.name.endswith((".mgz", ".mgh")):
        save(scene() if array is None else array, LIA, file)
    else:
        nibabel.save(nibabel.Nifti1Image(scene() if array is None else array, LIA), file)


def test_one_channel_and_nnunets_names(tmp_path):
    files(tmp_path, "a_0000.nii.gz", "sub_0001_0000.nii.gz", "b_0000.nii", "OAS1_0001.mgz", "sub_0000.mgz", "x.mgh")
    assert names(tmp_path) == {
        "a": ["a_0000.nii.gz"],
        "sub_0001": ["sub_0001_0000.nii.gz"],
        "b": ["b_0000.nii"],
        "OAS1_0001": ["OAS1_0001.mgz"],
        "sub_0000": ["sub_0000.mgz"],
        "x": ["x.mgh"],
    }


def test_one_channel_and_names_that_end_in_digits(tmp_path):
    wanted = ("002_S_0619", "OAS1_0000", "OAS1_0001", "pancreas_0001", "c", "d_00000")
    files(tmp_path, *(f"{name}.nii.gz" for name in wanted))
    assert names(tmp_path) == {name: [f"{name}.nii.gz"] for name in sorted(wanted)}


def test_several_channels_need_their_numbers(tmp_path):
    files(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "OAS1_0001_0000.mgz", "OAS1_0001_0001.nii")
    assert names(tmp_path, 2) == {
        "OAS1_0001": ["OAS1_0001_0000.mgz", "OAS1_0001_0001.nii"],
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
    }


def test_files_that_make_no_case_are_named(tmp_path):
    with pytest.raises(ValueError, match="has no images"):
        cases_in_folder(tmp_path, 1)
    files(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0000.mgz", "c.nii", "notes.txt")
    with pytest.raises(ValueError, match=r"take 2 channels.*: b \(b_0000.mgz, b_0000.nii.gz\), c \(c.nii\)$"):
        cases_in_folder(tmp_path, 2)
    with pytest.raises(ValueError, match="3 channels"):
        cases_in_folder(tmp_path, 3)
    files(tmp_path, "b.nii", "b.mgh")
    with pytest.raises(ValueError, match=r"take 1 channel.*: b \(b.mgh, b.nii\), b_0000 "):
        cases_in_folder(tmp_path, 1)
    files(tmp_path, *(f"x{number}.{end}" for number in range(7) for end in ("nii", "mgz")))
    with pytest.raises(ValueError, match="and 4 more$"):
        cases_in_folder(tmp_path, 1)


def test_hidden_files_and_folders_are_no_cases(tmp_path):
    files(tmp_path, "a.nii.gz", "._a.nii.gz", ".a.nii.gz", ".partial-host-1-0-a.nii.gz", ".mgz")
    (tmp_path / "folder.nii.gz").mkdir()
    assert names(tmp_path) == {"a": ["a.nii.gz"]}
    (tmp_path / "lost.nii.gz").symlink_to(tmp_path / "nowhere")  # a case that fails is better than one that is missed
    assert set(names(tmp_path)) == {"a", "lost"}


@pytest.mark.parametrize("way", ["same", "link", "dots"])
@pytest.mark.parametrize("name", ["pat.nii.gz", "pat_0000.nii.gz", "pat.mgz"])
def test_the_folder_of_the_images_is_no_output(way, name, tmp_path):
    image(tmp_path / "in" / name)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    output = {"same": tmp_path / "in", "link": tmp_path / "link", "dots": tmp_path / "in" / ".." / "in"}[way]
    before = (tmp_path / "in" / name).read_bytes()
    both = models()
    for overwrite in (True, False):
        with pytest.raises(ValueError, match="is the folder of the images"):
            predict_cases(both, tmp_path / "in", output, overwrite)
    assert [file.name for file in (tmp_path / "in").iterdir()] == [name]
    assert (tmp_path / "in" / name).read_bytes() == before and not both.first.predictor.seen


@pytest.mark.parametrize("way", ["hard link", "link to the image", "link to the output"])
def test_an_output_that_is_an_image_is_refused(way, tmp_path):
    image(tmp_path / "in" / "other.nii.gz")
    image(tmp_path / "real" / "pat.nii.gz")
    (tmp_path / "out").mkdir()
    if way == "link to the output":
        (tmp_path / "real" / "pat.nii.gz").rename(tmp_path / "out" / "pat.nii.gz")
        (tmp_path / "in" / "pat.nii.gz").symlink_to(tmp_path / "out" / "pat.nii.gz")
    else:
        (tmp_path / "real" / "pat.nii.gz").rename(tmp_path / "in" / "pat.nii.gz")
        link = os.link if way == "hard link" else os.symlink
        link(tmp_path / "in" / "pat.nii.gz", tmp_path / "out" / "pat.nii.gz")
    before = (tmp_path / "in" / "pat.nii.gz").read_bytes()
    both = models()
    with pytest.raises(ValueError, match=r"out/pat\.nii\.gz is the image .*in/pat\.nii\.gz"):
        predict_cases(both, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "in" / "pat.nii.gz").read_bytes() == before and not both.first.predictor.seen


def test_an_output_in_the_folder_of_the_images_is_none_of_them(tmp_path):
    image(tmp_path / "in" / "pat.nii.gz")
    for _ in range(2):
        assert predict_cases(models(), tmp_path / "in", tmp_path / "in" / "out") == []
    assert sorted(file.name for file in (tmp_path / "in").rglob("*.nii.gz")) == ["pat.nii.gz", "pat.nii.gz"]


def test_a_case_without_the_region_is_named_and_the_others_go_on(tmp_path, capsys):
    for name, array in (("a", scene(left=None, right=None)), ("b", scene(left=None)), ("c", scene())):
        image(tmp_path / "in" / f"{name}_0000.nii.gz", array)
    (tmp_path / "in" / "d_0000.nii.gz").write_bytes(b"nothing")
    cut = (tmp_path / "in" / "c_0000.nii.gz").read_bytes()
    (tmp_path / "in" / "e_0000.nii.gz").write_bytes(cut[: len(cut) // 2])
    assert predict_cases(models(), tmp_path / "in", tmp_path / "out") == ["a", "d", "e"]
    output = capsys.readouterr().out
    assert "a: FAILED: the first stage found no left, no right\n" in output
    assert "b: left was not found" in output and "d: FAILED: " in output
    assert "e: FAILED: " in output and "e_0000.nii.gz is damaged" in output and len(output.splitlines()) == 5
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b.nii.gz", "c.nii.gz"]
    again = models()
    (tmp_path / "out" / "b.nii.gz").unlink()
    assert predict_cases(again, tmp_path / "in", tmp_path / "out", overwrite=False) == ["a", "d", "e"]
    assert len(again.second.predictor.seen) == 1


def test_names_are_printed_without_escapes_and_failures_of_any_kind_in_a_line(tmp_path, capsys, monkeypatch):
    image(tmp_path / "in" / "a\x1b[31m.nii.gz")
    image(tmp_path / "in" / "b.nii.gz")
    both = models()
    monkeypatch.setattr(both.first.predictor, "predict_single_npy_array", lambda *arguments: {}["two\nlines"])
    assert len(predict_cases(both, tmp_path / "in", tmp_path / "out")) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines == [r"a\x1b[31m: FAILED: KeyError: 'two\nlines'", r"b: FAILED: KeyError: 'two\nlines'"]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    image(tmp_path / "in" / "a.nii.gz")

    class Full(gzip.GzipFile):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(volumes.gzip, "GzipFile", Full)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"the earlier one")
    assert predict_cases(models(), tmp_path / "in", tmp_path / "out") == ["a"]
    assert f"No space left on device: '{tmp_path / 'out' / 'a.nii.gz'}'" in capsys.readouterr().out
    assert [file.read_bytes() for file in (tmp_path / "out").iterdir()] == [b"the earlier one"]


def test_what_a_killed_process_left_is_removed_and_equal_voxels_are_equal_bytes(tmp_path):
    image(tmp_path / "in" / "a.nii.gz")
    assert predict_cases(models(), tmp_path / "in", tmp_path / "out") == []
    first = (tmp_path / "out" / "a.nii.gz").read_bytes()
    left = tmp_path / "out" / ".partial-elsewhere-1-0-a.nii.gz"
    left.write_bytes(first[:100])
    os.utime(left, (0, 0))
    assert predict_cases(models(), tmp_path / "in", tmp_path / "out") == []
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.nii.gz"]
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == first and b"partial" not in first


def test_models_of_different_channels_do_not_fit(tmp_path):
    second = FakePredictor({"left": 1})
    second.dataset_json["channel_names"] = {"0": "T1", "1": "T2"}
    with pytest.raises(ValueError, match="takes 1 channel"):
        predict_cases(models(second=second), tmp_path, tmp_path / "out")


def test_the_older_key_of_the_channels_is_taken(tmp_path):
    predictors = [FakePredictor({"left": 1, "right": 2}), FakePredictor({"left": 1, "right": 2})]
    for predictor in predictors:
        predictor.dataset_json["modality"] = {"0": "T1", "1": "T2"}
    del predictors[0].dataset_json["channel_names"]  # nnU-Net prefers the older one where both are there
    both = models(*predictors)
    for channel in range(2):
        image(tmp_path / "in" / f"a_000{channel}.nii.gz")
    assert predict_cases(both, tmp_path / "in", tmp_path / "out") == []
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "a.nii.gz"]


def test_an_image_of_nothing_but_nan_fails_in_a_line(tmp_path, capsys):
    image(tmp_path / "in" / "a.nii.gz", np.full((12, 12, 12), np.nan, dtype=np.float32))
    labels = {"left": 1, "right": 2}
    assert predict_cases(models(), tmp_path / "in", tmp_path / "out") == ["a"]
    assert capsys.readouterr().out == "a: FAILED: the first stage found no left, no right\n"  # ITK makes 0 of NaN
    both = models(FakePredictor(labels, reader=NibabelIO), FakePredictor(labels, reader=NibabelIO))
    assert predict_cases(both, tmp_path / "in", tmp_path / "out") == ["a"]
    assert "has NaN or infinite values" in capsys.readouterr().out
