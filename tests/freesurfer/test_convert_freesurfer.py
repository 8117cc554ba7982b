"""FreeSurfer subjects become an nnU-Net data set: voxels, places, ids, refusals."""

import gzip
import json
import re
import shutil
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from unittest.mock import patch

import nibabel
import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.normalization.default_normalization_schemes import RescaleTo01Normalization
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from shared_files import SHARED, why_absent
from subjects import LIA, SHAPE, save, synthetic_aseg, synthetic_image, turned, write_subject
from two_stage_fakes import with_other_sform

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.freesurfer.structures import TASKS, classes_from_ids
from nnunetv2_mamba.freesurfer.volumes import label_voxels, read_volume

BRAINS = ("data", "Dataset101_SubcorticalSim")
ABSENT = why_absent(*BRAINS)

IDS = {"subcortical": list(TASKS["subcortical"].structures), "hippocampus": list(TASKS["hippocampus"].structures)}


@pytest.fixture
def subjects_dir(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path / "subjects"


def convert(subjects_dir, *arguments, code=0):
    assert main(["convert-freesurfer", str(subjects_dir), "-d", "77", "-np", "1", *arguments]) == code
    task = "HippocampalSubfields" if "hippocampus" in arguments else "Subcortical"
    return subjects_dir.parent / "raw" / f"Dataset077_{task}"


def load(file):
    image = nibabel.load(file)
    return np.asanyarray(image.dataobj), image.affine


def test_labels_of_the_tasks_are_the_papers():
    assert len(TASKS["subcortical"].structures) == 31  # and the background
    assert len(TASKS["hippocampus"].structures) == 24
    for task in TASKS.values():
        ids = list(task.structures)
        assert ids == sorted(ids) and len(set(task.structures.values())) == len(ids)
    np.testing.assert_array_equal(
        classes_from_ids(np.array([-1, 0, 4, 3, 77, 2035]), TASKS["subcortical"]), [0, 0, 1, 0, 31, 0]
    )


def test_every_voxel_and_its_place_are_kept(subjects_dir):
    aseg = synthetic_aseg()
    image = synthetic_image(aseg)
    write_subject(subjects_dir, "bert", image, aseg)
    dataset = convert(subjects_dir)
    converted, affine = load(dataset / "imagesTr" / "bert_0000.nii.gz")
    np.testing.assert_array_equal(converted, image)
    assert converted.dtype == np.uint8
    np.testing.assert_array_equal(affine, LIA)
    labels, affine = load(dataset / "labelsTr" / "bert.nii.gz")
    np.testing.assert_array_equal(affine, LIA)
    ids = np.array([0, *IDS["subcortical"]])
    np.testing.assert_array_equal(ids[labels], np.where(np.isin(aseg, ids), aseg, 0))
    assert not list(dataset.rglob("*partial*"))


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_nnunets_readers_keep_the_place(subjects_dir, reader, tmp_path):
    aseg = synthetic_aseg()
    write_subject(subjects_dir, "bert", synthetic_image(aseg), aseg)
    dataset = convert(subjects_dir)
    original, affine = load(dataset / "labelsTr" / "bert.nii.gz")
    array, _ = reader().read_seg(str(dataset / "labelsTr" / "bert.nii.gz"))
    image, properties = reader().read_images([str(dataset / "imagesTr" / "bert_0000.nii.gz")])
    assert image.shape == array.shape == (1, *SHAPE[::-1])
    reader().write_seg(array[0].astype(np.uint8), str(tmp_path / "again.nii.gz"), properties)
    again, again_affine = load(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(again, original)
    np.testing.assert_allclose(again_affine, affine, atol=1e-5)


def test_nnunet_accepts_the_data_set_and_rescales_it(subjects_dir):
    for name in ("one", "two"):
        aseg = synthetic_aseg()
        write_subject(subjects_dir, name, synthetic_image(aseg), aseg)
    dataset = convert(subjects_dir)
    # threads, because every spawned process would import torch
    with patch("multiprocessing.get_context", return_value=SimpleNamespace(Pool=ThreadPool)):
        verify_dataset_integrity(str(dataset), num_processes=1)
    document = json.loads((dataset / "dataset.json").read_text())
    assert get_normalization_scheme(document["channel_names"]["0"]) is RescaleTo01Normalization
    assert document["numTraining"] == 2
    assert list(document["labels"].values()) == list(range(32))
    assert document["labels"]["Left-Hippocampus"] == 12 and document["freesurfer_ids"]["Left-Hippocampus"] == 17
    assert document["labels"].keys() - {"background"} == document["freesurfer_ids"].keys()


def test_axes_in_another_order_are_turned(subjects_dir):
    aseg = synthetic_aseg()
    image = synthetic_image(aseg)
    ras_image, affine = turned(image, LIA, "RAS")
    ras_aseg, _ = turned(aseg, LIA, "RAS")
    assert ras_image.shape != image.shape
    write_subject(subjects_dir, "ras", ras_image, ras_aseg, affine)
    dataset = convert(subjects_dir)
    converted, affine = load(dataset / "imagesTr" / "ras_0000.nii.gz")
    np.testing.assert_array_equal(converted, image)
    np.testing.assert_allclose(affine, LIA, atol=1e-5)


def test_other_voxels_are_resampled_to_1_mm_and_labels_stay_labels(subjects_dir):
    affine = LIA.copy()
    affine[:3, :3] *= 0.8
    shape = (50, 45, 55)
    aseg = np.zeros(shape, dtype=np.int32)
    aseg[10:40, 10:35, 10:27] = 17
    aseg[10:40, 10:35, 27:45] = 53  # an interpolated border would have ids between the two
    write_subject(subjects_dir, "fine", synthetic_image(aseg), aseg, affine)
    dataset = convert(subjects_dir)
    labels, new_affine = load(dataset / "labelsTr" / "fine.nii.gz")
    image, image_affine = load(dataset / "imagesTr" / "fine_0000.nii.gz")
    assert labels.shape == image.shape == (40, 36, 44)
    np.testing.assert_array_equal(new_affine, image_affine)
    assert nibabel.aff2axcodes(new_affine) == tuple("LIA")
    np.testing.assert_allclose(np.linalg.norm(new_affine[:3, :3], axis=0), 1, atol=1e-6)
    hippocampi = [IDS["subcortical"].index(number) + 1 for number in (17, 53)]
    assert set(np.unique(labels)) == {0, *hippocampi}
    for label, number in zip(hippocampi, (17, 53), strict=True):
        assert np.sum(labels == label) == pytest.approx(np.sum(aseg == number) * 0.8**3, rel=0.1)
        before = nibabel.affines.apply_affine(affine, np.argwhere(aseg == number).mean(axis=0))
        after = nibabel.affines.apply_affine(new_affine, np.argwhere(labels == label).mean(axis=0))
        np.testing.assert_allclose(after, before, atol=0.5)  # mm, of both sides: left has stayed left


def hippocampi_and_subfields(shape=(120, 110, 130)):
    aseg = np.zeros(shape, dtype=np.int32)
    sides = {"lh": np.zeros(shape, dtype=np.int32), "rh": np.zeros(shape, dtype=np.int32)}
    # to the left is up in LIA's first axis
    for side, number, start in (("lh", 17, 70), ("rh", 53, 30)):
        aseg[start : start + 12, 50:62, 60:90] = number
        numbers = [203, 204, 205, 206, 208, 209, 210, 211, 212, 214, 215, 226, 207, 7001]
        for index, subfield in enumerate(numbers):
            sides[side][start + index % 12, 50:62, 60:90] = subfield
    return aseg, sides


def test_subfields_of_both_sides_in_a_box_around_the_hippocampi(subjects_dir):
    aseg, sides = hippocampi_and_subfields()
    image = synthetic_image(aseg)
    write_subject(subjects_dir, "bert", image, aseg, **sides)
    dataset = convert(subjects_dir, "--task", "hippocampus")
    labels, affine = load(dataset / "labelsTr" / "bert.nii.gz")
    assert labels.shape == (96, 96, 96)
    # the hippocampi, 30 to 82, 50 to 62, 60 to 90, are in the middle, as far as the volume goes
    box = (slice(8, 104), slice(8, 104), slice(27, 123))
    np.testing.assert_allclose(affine[:3, 3], nibabel.affines.apply_affine(LIA, [8, 8, 27]))
    expected = np.where(np.isin(sides["lh"], range(203, 227)), sides["lh"] + 1000, 0)
    expected += np.where(np.isin(sides["rh"], range(203, 227)), sides["rh"] + 2000, 0)
    expected[np.isin(expected, (1207, 2207))] = 0
    ids = np.array([0, *IDS["hippocampus"]])
    np.testing.assert_array_equal(ids[labels], expected[box])
    np.testing.assert_array_equal(load(dataset / "imagesTr" / "bert_0000.nii.gz")[0], image[box])
    document = json.loads((dataset / "dataset.json").read_text())
    assert document["roi_box_mm"] == [96, 96, 96] and len(document["labels"]) == 25
    assert document["freesurfer_ids"]["Right-CA1"] == 2206


def test_missing_structures_are_told_and_strict_refuses_them(subjects_dir, capsys):
    aseg = synthetic_aseg()
    write_subject(subjects_dir, "whole", synthetic_image(aseg), aseg)
    aseg[aseg == 77] = 0
    write_subject(subjects_dir, "young", synthetic_image(aseg), aseg)
    dataset = convert(subjects_dir, "--strict", code=1)
    captured = capsys.readouterr()
    assert "WM-hypointensities               missing in    1: young" in captured.out
    assert "1 structures are missing" in captured.err
    assert not (dataset / "dataset.json").exists()
    convert(subjects_dir)  # resumes: what was written is read for the table
    assert "missing in    1: young" in capsys.readouterr().out
    assert (dataset / "dataset.json").exists()


def test_all_wrong_subjects_are_named_at_once(subjects_dir, capsys):
    aseg = synthetic_aseg()
    image = synthetic_image(aseg)
    write_subject(subjects_dir, "good", image, aseg)
    (write_subject(subjects_dir, "no_labels", image, aseg) / "aseg.mgz").unlink()
    save(aseg[:-1], LIA, write_subject(subjects_dir, "cut", image, aseg) / "aseg.mgz")
    shifted = LIA.copy()
    shifted[0, 3] += 1
    save(aseg, shifted, write_subject(subjects_dir, "shifted", image, aseg) / "aseg.mgz")
    (write_subject(subjects_dir, "no_image", image, aseg) / "brainmask.mgz").write_bytes(b"nothing")
    write_subject(subjects_dir, "fsaverage", image[:-1], aseg)  # a template, not a subject
    dataset = convert(subjects_dir, code=1)
    message = capsys.readouterr().err
    assert "4 of 5 subjects" in message
    assert "aseg.mgz" in message.split("no_labels: ")[1].split(";")[0]
    assert "shape 40 x 36 x 44 and 39 x 36 x 44" in message and "1 mm apart" in message
    assert "brainmask.mgz cannot be read" in message
    assert not dataset.exists()
    convert(subjects_dir, "--subjects", "good")
    assert [file.name for file in (dataset / "imagesTr").iterdir()] == ["good_0000.nii.gz"]


def test_labels_that_are_no_whole_numbers_are_refused(subjects_dir, capsys):
    aseg = synthetic_aseg()
    mri = write_subject(subjects_dir, "smooth", synthetic_image(aseg), aseg)
    save((aseg * 0.5).astype(np.float32), LIA, mri / "aseg.mgz")
    dataset = convert(subjects_dir, code=1)
    assert "smooth: " in (message := capsys.readouterr().err) and "no whole numbers" in message
    assert not (dataset / "dataset.json").exists()


@pytest.mark.parametrize(
    ("off", "kind", "shown"),
    [
        (0.9999999, np.float32, "16.999998092651367"),
        (0.999999, np.float64, "16.999983"),
        (np.nan, np.float32, "nan"),
        (np.inf, np.float64, "inf"),
        (1e12, np.float64, "17000000000000.0"),
    ],
)
def test_labels_off_whole_numbers_are_refused_with_their_value(tmp_path, off, kind, shown):
    array = np.zeros((4, 4, 4), dtype=kind)
    array[1] = 17
    array[2] = kind(17) * kind(off)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "aseg.nii.gz")
    with pytest.raises(ValueError, match=rf"aseg\.nii\.gz has values that are no whole numbers.*: {re.escape(shown)}$"):
        label_voxels(read_volume(tmp_path / "aseg.nii.gz"))


def test_labels_that_are_whole_in_single_precision_are_taken(tmp_path):
    array = np.arange(64).reshape(4, 4, 4).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(array * (1 - 1e-12), np.eye(4)), tmp_path / "double.nii.gz")
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int64), np.eye(4), dtype=np.int64), tmp_path / "long.nii")
    for name in ("double.nii.gz", "long.nii"):
        np.testing.assert_array_equal(label_voxels(read_volume(tmp_path / name)), array)


def test_subfields_must_be_found_once_and_beside_hippocampi(subjects_dir, capsys):
    aseg, sides = hippocampi_and_subfields()
    image = synthetic_image(aseg)
    mri = write_subject(subjects_dir, "bert", image, aseg, **sides)
    (mri / "lh.hippoAmygLabels-T1.v21.FS60.FSvoxelSpace.mgz").write_bytes(b"")
    convert(subjects_dir, "--task", "hippocampus", code=1)
    message = capsys.readouterr().err
    assert "v21.FS60" in message and "v22.FS60" in message and "--subfields-pattern" in message
    save(np.zeros_like(aseg), LIA, mri / "aseg.mgz")
    pattern = ("--subfields-pattern", "hippoAmygLabels-T1.v22.FS60.FSvoxelSpace.mgz")
    convert(subjects_dir, "--task", "hippocampus", *pattern, code=1)
    assert "no hippocampus" in capsys.readouterr().err


def test_a_second_run_keeps_what_is_there_and_refuses_other_settings(subjects_dir, capsys):
    aseg = synthetic_aseg()
    image = synthetic_image(aseg)
    for name in ("one", "two"):
        write_subject(subjects_dir, name, image, aseg)
    dataset = convert(subjects_dir)
    first, second = (dataset / "labelsTr" / f"{name}.nii.gz" for name in ("one", "two"))
    time = first.stat().st_mtime_ns
    second.unlink()
    convert(subjects_dir)
    assert first.stat().st_mtime_ns == time and second.exists()
    convert(subjects_dir, "--image", "T1.mgz", code=1)
    assert "T1.mgz" in capsys.readouterr().err


def test_a_subject_whose_files_changed_is_converted_again(subjects_dir):
    aseg = synthetic_aseg()
    for name in ("edited", "kept"):
        write_subject(subjects_dir, name, synthetic_image(aseg), aseg)
    dataset = convert(subjects_dir)
    kept = (dataset / "labelsTr" / "kept.nii.gz").stat().st_mtime_ns
    aseg[aseg == 17] = 0
    save(aseg, LIA, subjects_dir / "edited" / "mri" / "aseg.mgz")
    convert(subjects_dir)
    labels = load(dataset / "labelsTr" / "edited.nii.gz")[0]
    np.testing.assert_array_equal(labels, classes_from_ids(aseg, TASKS["subcortical"]))
    assert (dataset / "labelsTr" / "kept.nii.gz").stat().st_mtime_ns == kept
    # a name that leads elsewhere, as in folders of links to other cohorts
    mri = write_subject(subjects_dir.parent / "other", "kept", synthetic_image(aseg)[::-1], aseg[::-1])
    shutil.rmtree(subjects_dir / "kept")
    (subjects_dir / "kept").symlink_to(mri.parent)
    convert(subjects_dir)
    image = load(dataset / "imagesTr" / "kept_0000.nii.gz")[0]
    np.testing.assert_array_equal(image, synthetic_image(aseg)[::-1])


def test_two_subjects_dirs_are_not_mixed_in_one_data_set(subjects_dir, capsys):
    aseg = synthetic_aseg()
    other = subjects_dir.parent / "other"
    write_subject(subjects_dir, "bert", synthetic_image(aseg), aseg)
    write_subject(other, "bert", synthetic_image(aseg)[::-1], aseg[::-1])
    dataset = convert(subjects_dir)
    convert(other, code=1)
    message = capsys.readouterr().err
    assert str(subjects_dir) in message and str(other) in message and "choose another -d" in message
    np.testing.assert_array_equal(load(dataset / "imagesTr" / "bert_0000.nii.gz")[0], synthetic_image(aseg))


def test_several_processes_write_the_same(subjects_dir):
    aseg = synthetic_aseg()
    for name in ("one", "two"):
        write_subject(subjects_dir, name, synthetic_image(aseg), aseg)
    dataset = convert(subjects_dir, "-np", "2")
    for name in ("one", "two"):
        np.testing.assert_array_equal(
            load(dataset / "labelsTr" / f"{name}.nii.gz")[0], classes_from_ids(aseg, TASKS["subcortical"])
        )


def test_subjects_are_folders_of_the_one_that_is_given(subjects_dir, capsys):
    """Sessions of the same name, in folders of their own, would be one case."""
    aseg = synthetic_aseg()
    for folder in (subjects_dir, subjects_dir / "one", subjects_dir / "two"):
        write_subject(folder, "session", synthetic_image(aseg), aseg)
    convert(subjects_dir, "--subjects", "one/session", "two/session", code=1)
    assert "one/session: --subjects takes the names of folders in SUBJECTS_DIR" in capsys.readouterr().err
    dataset = convert(subjects_dir, "--subjects", "session/", "session")
    assert [file.name for file in (dataset / "labelsTr").iterdir()] == ["session.nii.gz"]


def test_a_name_is_no_path(subjects_dir, capsys):
    convert(subjects_dir, "--name", "../raw", code=1)
    assert "--name must be of letters, digits, '_', '-' and '.', got '../raw'" in capsys.readouterr().err


def test_an_id_that_is_taken_is_refused(subjects_dir, tmp_path, capsys):
    (tmp_path / "raw" / "Dataset077_Other").mkdir()
    convert(subjects_dir, code=1)
    assert "Dataset077_Other" in capsys.readouterr().err


def test_an_image_in_other_units_lies_where_the_labels_do(subjects_dir):
    aseg = synthetic_aseg()
    image = synthetic_image(aseg)
    mri = write_subject(subjects_dir, "bert", image, aseg)
    for name, unit, factor in (("T1.nii.gz", "micron", 1000.0), ("T2.nii", "meter", 0.001)):
        volume = nibabel.Nifti1Image(image, np.diag([factor, factor, factor, 1]) @ LIA)
        volume.header.set_xyzt_units(unit)
        nibabel.save(volume, mri / name)
        dataset = convert(subjects_dir, "--image", name, "--name", unit)
        dataset = dataset.with_name(f"Dataset077_{unit}")
        converted, affine = load(dataset / "imagesTr" / "bert_0000.nii.gz")
        np.testing.assert_array_equal(converted, image)
        np.testing.assert_allclose(affine, LIA, atol=1e-4)
        assert nibabel.load(dataset / "imagesTr" / "bert_0000.nii.gz").header.get_xyzt_units()[0] == "mm"
        shutil.rmtree(dataset)


def test_an_image_whose_forms_disagree_is_as_itk_reads_it(subjects_dir, capsys):
    aseg = synthetic_aseg()
    image = synthetic_image(aseg)
    affine = LIA @ np.diag([0.8, 0.8, 1.2, 1])
    mri = write_subject(subjects_dir, "bert", image, aseg, affine)
    sform = affine.copy()
    sform[:3, :3] /= np.linalg.norm(sform[:3, :3], axis=0)  # of unit columns, beside right sizes and a right qform
    (mri / "T1.nii").write_bytes(with_other_sform(image, affine, sform))
    dataset = convert(subjects_dir, "--image", "T1.nii")
    from_mgz = convert(subjects_dir, "--image", "brainmask.mgz", "--name", "mgz", "-d", "78")
    from_mgz = from_mgz.with_name("Dataset078_mgz")
    for one, other in zip(*(load(path / "imagesTr" / "bert_0000.nii.gz") for path in (dataset, from_mgz)), strict=True):
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=1)


@pytest.mark.parametrize("factor", [20, 1000])
def test_a_wrong_unit_is_said_before_the_memory_is_full(subjects_dir, capsys, factor):
    aseg = synthetic_aseg()
    affine = LIA @ np.diag([factor, factor, factor, 1.0])
    write_subject(subjects_dir, "bert", synthetic_image(aseg), aseg, affine)
    dataset = convert(subjects_dir, code=1)
    assert "bert: " in (message := capsys.readouterr().err) and "mm large" in message and not dataset.exists()


def test_what_is_not_finite_becomes_0_and_does_not_spread(subjects_dir):
    affine = LIA @ np.diag([0.8, 0.8, 0.8, 1])
    aseg = synthetic_aseg()
    image = synthetic_image(aseg).astype(np.float32) + 1
    mri = write_subject(subjects_dir, "bert", image, aseg, affine)
    results = []
    for values in ((np.nan, np.inf, -np.inf), (0, 0, 0)):
        image[20, 20, 20], image[21, 20, 20], image[30, 10, 10] = values
        save(image, affine, mri / "brainmask.mgz")
        results.append(load(convert(subjects_dir) / "imagesTr" / "bert_0000.nii.gz")[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("file", ["brainmask.mgz", "aseg.mgz"])
@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_damaged_subjects_are_named_and_the_others_written(subjects_dir, file, damage, capsys):
    aseg = synthetic_aseg()
    for name in ("bad", "good"):
        write_subject(subjects_dir, name, synthetic_image(aseg), aseg)
    target = subjects_dir / "bad" / "mri" / file
    content = target.read_bytes()
    if damage == "cut":
        whole = gzip.decompress(content)
        target.write_bytes(gzip.compress(whole[: len(whole) // 2]))
    else:
        target.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    dataset = convert(subjects_dir, code=1)
    message = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 2 subjects" in message and f"{file} is damaged" in message
    assert (dataset / "labelsTr" / "good.nii.gz").exists() and not (dataset / "dataset.json").exists()
    assert not (dataset / "labelsTr" / "bad.nii.gz").exists()


def test_hidden_folders_are_no_subjects_and_hidden_files_no_cases(subjects_dir):
    aseg = synthetic_aseg()
    write_subject(subjects_dir, "bert", synthetic_image(aseg), aseg)
    (subjects_dir / ".snapshot" / "mri").mkdir(parents=True)
    (subjects_dir / "._bert").write_bytes(b"Mac OS X")
    dataset = convert(subjects_dir)
    for name in ("._bert.nii.gz", ".partial-elsewhere-1-0-bert.nii.gz"):
        (dataset / "labelsTr" / name).write_bytes(b"Mac OS X")
    convert(subjects_dir)
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 1


def test_a_data_set_of_the_users_own_is_left_alone(subjects_dir, capsys):
    aseg = synthetic_aseg()
    write_subject(subjects_dir, "bert", synthetic_image(aseg), aseg)
    dataset = subjects_dir.parent / "raw" / "Dataset077_Subcortical"
    dataset.mkdir()
    (dataset / ".DS_Store").touch()
    (dataset / "dataset.json").write_text("mine")
    convert(subjects_dir, code=1)
    assert "convert-freesurfer has not written" in capsys.readouterr().err
    assert (dataset / "dataset.json").read_text() == "mine" and len(list(dataset.iterdir())) == 2
    (dataset / "dataset.json").unlink()
    convert(subjects_dir)


def test_a_damaged_record_means_converting_again(subjects_dir, capsys):
    aseg = synthetic_aseg()
    write_subject(subjects_dir, "bert", synthetic_image(aseg), aseg)
    dataset = convert(subjects_dir)
    record = dataset / "sources" / "bert.json"
    content = record.read_text()
    for damaged in ("", "null", "[" * 100_000):
        record.write_text(damaged)
        convert(subjects_dir)
        assert record.read_text() == content
    (dataset / "convert_freesurfer.json").write_text("{")
    convert(subjects_dir, code=1)
    assert "convert_freesurfer.json is no valid JSON" in capsys.readouterr().err


@pytest.mark.skipif(bool(ABSENT), reason=str(ABSENT))
def test_brains_written_as_mgz_come_back(subjects_dir):
    """What test_every_voxel_and_its_place_are_kept says of a made-up head, for two whole brains."""
    data = SHARED.joinpath(*BRAINS)
    original = json.loads((data / "dataset.json").read_text())
    ids = np.zeros(len(original["labels"]), dtype=np.int32)
    for name, number in original["freesurfer_ids"].items():
        ids[original["labels"][name]] = number
    cases = ("brain_01", "brain_02")
    for case in cases:
        image, affine = load(data / "imagesTr" / f"{case}_0000.nii.gz")
        labels, _ = load(data / "labelsTr" / f"{case}.nii.gz")
        write_subject(subjects_dir, case, image, ids[labels], affine)
    dataset = convert(subjects_dir)
    document = json.loads((dataset / "dataset.json").read_text())
    assert original["freesurfer_ids"].items() <= document["freesurfer_ids"].items()
    back = np.zeros(len(document["labels"]), dtype=np.int32)
    for name, number in document["freesurfer_ids"].items():
        back[document["labels"][name]] = number
    for case in cases:
        image, affine = load(data / "imagesTr" / f"{case}_0000.nii.gz")
        converted, converted_affine = load(dataset / "imagesTr" / f"{case}_0000.nii.gz")
        np.testing.assert_array_equal(converted, image)
        np.testing.assert_array_equal(converted_affine, affine)
        labels, _ = load(data / "labelsTr" / f"{case}.nii.gz")
        np.testing.assert_array_equal(back[load(dataset / "labelsTr" / f"{case}.nii.gz")[0]], ids[labels])
