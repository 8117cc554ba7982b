"""``plan`` says what is wrong with a raw data set, in one line with file and remedy, before anything is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.planning import integrity
from nnunetv2_mamba.planning.dataset_checks import read_description
from nnunetv2_mamba.planning.integrity import check_integrity
from nnunetv2_mamba.planning.raw_files import find_cases

DESCRIPTION = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
SHAPE = (8, 10, 9)


def write_description(folder: Path, **changes) -> Path:
    """``None`` takes a key away."""
    content = {key: value for key, value in {**DESCRIPTION, **changes}.items() if value is not None}
    file = folder / "dataset.json"
    file.write_text(json.dumps(content))
    return file


def label_map() -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[2:5, 2:5, 2:5], array[5:7, 5:7, 5:7] = 1, 2
    return array


def write_image(file: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(file))


def remove_files(folder: Path) -> None:
    for file in folder.glob("*Tr/*"):
        file.unlink()


@pytest.fixture
def raw(tmp_path) -> Path:
    """A good data set of three cases."""
    folder = tmp_path / "raw" / "Dataset903_Small"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    write_description(folder)
    rng = np.random.default_rng(0)
    for case in range(3):
        write_image(folder / "imagesTr" / f"c{case}_0000.nii.gz", rng.random(SHAPE, dtype=np.float32))
        write_image(folder / "labelsTr" / f"c{case}.nii.gz", label_map())
    return folder


def check(folder: Path, processes: int = 1) -> None:
    description = read_description(folder / "dataset.json")
    check_integrity(find_cases(folder, description), description, folder, processes)


REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, 'has no key "labels"; write it'),
        ({"file_ending": None}, 'has no key "file_ending"; write it, such as'),
        ({"numTraining": None}, 'has no key "numTraining"; write it'),
        ({"channel_names": None}, "channel_names: the key is missing; write it"),
        ({"numTraining": "3"}, "numTraining: must be the number of training cases; it is '3'"),
        ({"numTraining": True}, "numTraining: must be"),
        ({"numTraining": 0}, "numTraining: must be"),
        ({"file_ending": "nii.gz"}, "file_ending: must be a text that starts with its dot"),
        ({"file_ending": ""}, "file_ending: must be a text"),
        ({"file_ending": [".nii.gz"]}, "file_ending: must be a text"),
        ({"file_ending": ".dcm"}, r"file_ending: nnU-Net reads .*\.nii\.gz.*; it is '\.dcm'"),
        ({"overwrite_image_reader_writer": 3}, "overwrite_image_reader_writer: must be the name .*; it is 3"),
        ({"channel_names": {"T1": 0}}, "channel_names: the number comes first"),
        ({"channel_names": {"0": 1}}, "channel_names: the number comes first"),
        ({"channel_names": ["T1"]}, "channel_names: must be numbers with names"),
        ({"channel_names": {}}, "channel_names: must be numbers with names"),
        ({"channel_names": {"1": "T2", "0": "T1"}}, "channel_names: must be in the order of their numbers"),
        ({"labels": {"0": "background", "1": "a"}}, "labels: '0' must be a name .*nnU-Net v1"),
        ({"labels": {"background": 0, "1": "liver"}}, "labels: '1' must be a name .*nnU-Net v1"),
        ({"labels": ["background", "a"]}, "labels: must be names with numbers"),
        ({"labels": {}}, "labels: must be names with numbers"),
        ({"labels": {"a": 1, "b": 2}}, 'labels: there must be "background": 0'),
        ({"labels": {"background": 1, "a": 2}}, 'labels: there must be "background": 0'),
        ({"labels": {"background": [0], "a": 1}}, 'labels: there must be "background": 0'),
        ({"labels": {"background": 0}}, "labels: there is none besides the background"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels: 'a' and 'b' are both 1; leave one"),
        ({"labels": {**REGIONS, "also": [2, 1]}, "regions_class_order": [1, 2, 1]}, "'whole' and 'also' are both"),
        ({"labels": {"background": 0, "a": 0}}, "labels: 'background' and 'a' are both 0"),
        ({"labels": {"background": 0, "a": 1, "c": 3}}, "labels: their numbers must be 0, 1, 2.*they are 0, 1, 3"),
        ({"labels": {"background": 0, "a": 1.5}}, "labels: 'a' must be a name with its whole number"),
        ({"labels": {"background": 0, "a": True}}, "labels: 'a' must be"),
        ({"labels": {"background": 0, "a": None}}, "labels: 'a' must be"),
        ({"labels": {"background": 0, "a": -1}}, "labels: 'a' must be"),
        ({"labels": {"background": 0, "a": []}}, "labels: 'a' must be"),
        ({"labels": {"background": 0, "a": [1, 1]}}, "labels: 'a' must be .*different ones"),
        ({"labels": {"background": 0, "a": [1, "x"]}}, "labels: 'a' must be"),
        ({"labels": {"background": 0, "a": 1, "ignore": 5}}, "'ignore' must be one more than the highest label, 2"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "'ignore' must be one whole number, no region"),
        ({"labels": REGIONS}, "regions_class_order: .* one whole number for each of whole, core; it is missing"),
        ({"labels": REGIONS, "regions_class_order": [1]}, r"regions_class_order: .*; it is \[1\]"),
        ({"labels": REGIONS, "regions_class_order": 12}, "regions_class_order: .*; it is 12"),
        ({"labels": REGIONS, "regions_class_order": ["1", "2"]}, "regions_class_order: "),
        ({"labels": {**REGIONS, "core": "2"}, "regions_class_order": [1, 2]}, "'core' is '2'"),
        ({"labels": REGIONS, "regions_class_order": [2, 1]}, r"regions_class_order \[2, 1\] contradicts"),
        ({"dataset": ["c0"]}, "dataset: must be cases with files"),
        ({"dataset": {"c0": {"images": "a.nii.gz", "label": "b.nii.gz"}}}, "dataset: case 'c0' must be"),
        ({"dataset": {"c0": {"images": ["a.nii.gz"]}}}, "dataset: case 'c0' must be"),
        ({"dataset": {"a/c0": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}}, "dataset: 'a/c0' cannot be a case's"),
    ],
)
def test_mistakes_of_dataset_json(tmp_path, changes, message):
    file = write_description(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_description(file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_a_reader_of_null(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({**DESCRIPTION, "overwrite_image_reader_writer": None}))
    with pytest.raises(ValueError, match="overwrite_image_reader_writer: must be the name .*; it is None"):
        read_description(tmp_path / "dataset.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(DESCRIPTION)[:-1] + ",}", "is no valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "holds no JSON object"),
        ("", "is no valid JSON"),
        ('{"labels": "\xff"}', "is no valid JSON"),
    ],
)
def test_what_is_no_json_object(tmp_path, text, message):
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"dataset.json.* {message}"):
        read_description(tmp_path / "dataset.json")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channel_names": None, "modality": {"0": "T1"}},
        {"channel_names": {"0": "T1", "2": "T2"}},
        {"labels": {"background": "0", "a": "1", "b": 2.0}},
        {"labels": {"background": 0, "a": [1], "b": [2], "ignore": 3}},
        {"labels": REGIONS, "regions_class_order": [1, 2]},
        {"labels": {**REGIONS, "ignore": 3}, "regions_class_order": [1, 2]},
        {"file_ending": ".xyz", "overwrite_image_reader_writer": "SimpleITKIO"},
        {"overwrite_image_reader_writer": "None"},
        {"file_ending": ".NII.GZ"},
    ],
)
def test_what_nnunet_takes_is_taken(tmp_path, changes):
    file = write_description(tmp_path, **changes)
    assert read_description(file) == json.loads(file.read_text())


def rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "labelsTr" / "c1.nii.gz").unlink(), "lacks labelsTr/c1.nii.gz; add"),
        (lambda f: rename(f / "labelsTr", "c1.nii.gz", "c1.nii"), "lacks labelsTr/c1.nii.gz; add"),
        (lambda f: rename(f, "labelsTr", "labels"), "labelsTr is no folder; put the labels"),
        (lambda f: rename(f, "imagesTr", "images"), "imagesTr is no folder; put the images"),
        (lambda f: rename(f / "imagesTr", "c1_0000.nii.gz", "c1.nii.gz"), "without a channel's number: c1.nii.gz;"),
        (lambda f: rename(f / "imagesTr", "c1_0000.nii.gz", "c1_000.nii.gz"), "without a channel's number: c1_000"),
        (lambda f: rename(f / "imagesTr", "c1_0000.nii.gz", "c1_0000.nii"), "do not end in .nii.gz.*: c1_0000.nii;"),
        (lambda f: rename(f / "imagesTr", "c1_0000.nii.gz", "c1_0000.NII.GZ"), "do not end in .nii.gz.*: c1_0000.NII"),
        (lambda f: (f / "imagesTr" / "._c1_0000.nii.gz").write_bytes(b"Mac OS X"), r"hidden files.*\._c1.*-delete"),
        (lambda f: [file.unlink() for file in (f / "imagesTr").iterdir()], "has no images CASE_0000.nii.gz"),
        (lambda f: rename(f / "imagesTr", "c1_0000.nii.gz", "c1_0001.nii.gz"), "has the channels 0000, 0001 .*has 1;"),
        (lambda f: (f / "imagesTr" / "c9_0000.nii.gz").symlink_to("gone"), "lacks imagesTr/c9_0000.nii.gz, label"),
    ],
)
def test_mistakes_of_the_folders(raw, spoil, message):
    spoil(raw)
    with pytest.raises(ValueError, match=message) as error:
        find_cases(raw, DESCRIPTION)
    assert str(raw) in str(error.value)


def test_a_missing_channel(raw):
    (raw / "imagesTr" / "c0_0001.nii.gz").touch()
    with pytest.raises(ValueError, match="lacks c1_0001.nii.gz, c2_0001.nii.gz, which other cases have"):
        find_cases(raw, {**DESCRIPTION, "channel_names": {"0": "T1", "1": "T2"}})


def test_what_lies_beside_the_images_does_not_matter(raw):
    for name in (".DS_Store", "c0.json", "notes.txt", "c1_0000.nii"):
        (raw / "imagesTr" / name).touch()
    (raw / "labelsTr" / "._c0.nii.gz").touch()
    assert list(find_cases(raw, DESCRIPTION)) == ["c0", "c1", "c2"]
    check(raw)


def test_names_with_dots_spaces_and_numbers(raw):
    for old, new in (("c0", "a.b é"), ("c1", "sub_0001_0002"), ("c2", "Z")):
        rename(raw / "imagesTr", f"{old}_0000.nii.gz", f"{new}_0000.nii.gz")
        rename(raw / "labelsTr", f"{old}.nii.gz", f"{new}.nii.gz")
    assert set(find_cases(raw, DESCRIPTION)) == {"a.b é", "sub_0001_0002", "Z"}
    check(raw)


def test_files_that_dataset_json_lists(raw, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(raw / "imagesTr"))
    listed = {
        "x": {"images": ["$ELSEWHERE/c0_0000.nii.gz"], "label": "labelsTr/c0.nii.gz"},
        "y": {"images": [str(raw / "imagesTr" / "c1_0000.nii.gz")], "label": "labelsTr/../labelsTr/c1.nii.gz"},
    }
    write_description(raw, dataset=listed, numTraining=2)
    check(raw)
    listed["y"]["label"] = "labelsTr/c7.nii.gz"
    with pytest.raises(ValueError, match="lacks labelsTr/c7.nii.gz"):
        find_cases(raw, {**DESCRIPTION, "dataset": listed})
    listed["y"]["label"] = "labelsTr/c1.mha"
    with pytest.raises(ValueError, match="c1.mha of y does not end in .nii.gz"):
        find_cases(raw, {**DESCRIPTION, "dataset": listed})


def write_two_volumes(file: Path, volume: np.ndarray) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.stack((volume, volume)), isVector=False), str(file))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda i, t: write_image(t, label_map()[:, :, 1:]), r"case c1 .*Shape mismatch.*\(8, 10, 9\).*\(8, 10, 8\)"),
        (lambda i, t: write_image(t, label_map(), (1, 1, 2)), "case c1 .*Spacing mismatch"),
        (lambda i, t: write_image(t, label_map() * 2), r"c1.nii.gz has the value 4, which .* \(0, 1, 2\); correct"),
        (lambda i, t: write_image(t, label_map() * np.float32(0.9999999)), "value 0.9999999, 1.9999998, .*round them"),
        (lambda i, t: write_image(t, label_map() - np.float32(0.5)), "value -0.5, 0.5, 1.5, .*round them"),
        (lambda i, t: cut(i), "c1_0000.nii.gz is damaged"),
        (lambda i, t: cut(t), "c1.nii.gz is damaged"),
        (lambda i, t: t.write_bytes(b""), "case c1 .*c1.nii.gz"),
        (lambda i, t: i.write_text("version https://git-lfs.github.com/spec/v1"), "c1_0000.nii.gz (is d|cannot be u)"),
        (lambda i, t: write_two_volumes(i, np.zeros(SHAPE)), "c1_0000.nii.gz has 4 axes: .* cannot write .*CASE_0000"),
        (lambda i, t: write_two_volumes(t, label_map()), "c1.nii.gz has 2 channels, a label map has one"),
    ],
)
def test_mistakes_within_the_images(raw, spoil, message):
    spoil(raw / "imagesTr" / "c1_0000.nii.gz", raw / "labelsTr" / "c1.nii.gz")
    with pytest.raises(ValueError, match=message) as error:
        check(raw)
    assert "\n" not in str(error.value)


def test_colour_pictures_and_single_slices(raw):
    """Three channels in one file, as nnU-Net reads PNG; volumes of one slice."""
    remove_files(raw)
    colours = {"file_ending": ".png", "channel_names": {"0": "R", "1": "G", "2": "B"}}
    write_description(raw, **colours)
    for case in ("img.0 é", "b", "c"):
        colour = np.zeros((12, 14, 3), np.uint8)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colour, isVector=True), str(raw / f"imagesTr/{case}_0000.png"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colour[..., 0]), str(raw / f"labelsTr/{case}.png"))
    check(raw)
    write_description(raw, **colours | {"channel_names": {"0": "R", "1": "G"}})
    with pytest.raises(ValueError, match="case b .*Unexpected number of modalities. Expected: 2. Got: 3"):
        check(raw)
    remove_files(raw)
    write_description(raw)
    for case in ("a", "b", "c"):
        write_image(raw / "imagesTr" / f"{case}_0000.nii.gz", np.zeros((1, 9, 8), np.float32))
        write_image(raw / "labelsTr" / f"{case}.nii.gz", np.ones((1, 9, 8), np.uint8))
    check(raw)


def test_a_mask_in_colours(raw):
    """Values and shape are as they should be, and nnU-Net trains with it: on the last day ``evaluate`` refuses it."""
    remove_files(raw)
    write_description(raw, file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"})
    for case in ("a", "b", "c"):
        colour = SimpleITK.GetImageFromArray(np.ones((12, 14, 3), np.uint8), isVector=True)
        SimpleITK.WriteImage(colour, str(raw / f"imagesTr/{case}_0000.png"))
        SimpleITK.WriteImage(colour, str(raw / f"labelsTr/{case}.png"))
    with pytest.raises(ValueError, match=r"case a .*a.png has 3 channels, a label map has one.*\(and 2 more"):
        check(raw)


def test_infinite_values(raw):
    """ITK makes 0 of those of NIfTI, not of other formats; 64 bits hold larger numbers than nnU-Net's 32."""
    remove_files(raw)
    write_description(raw, file_ending=".nrrd", channel_names={"0": "T1", "1": "T2"})
    for case, value in (("a", 1.0), ("b", np.inf), ("c", -1e40)):
        for channel in range(2):
            write_image(raw / f"imagesTr/{case}_{channel:04d}.nrrd", np.full(SHAPE, value if channel else 1.0))
        write_image(raw / f"labelsTr/{case}.nrrd", label_map())
    with pytest.raises(ValueError, match=r"b_0001.nrrd has values that are infinite.*\(and 1 more cases fail: c\)"):
        check(raw)


def test_the_ignore_label_and_regions_are_known_values(raw):
    write_description(raw, labels={"background": 0, "whole": [1], "ignore": 2})
    check(raw)
    write_description(raw, labels=REGIONS, regions_class_order=[1, 2])
    check(raw)


def test_the_first_image_can_be_read(raw, monkeypatch):
    """By one of nnU-Net's readers, which it chooses by trying."""
    (raw / "imagesTr" / "c0_0000.nii.gz").write_bytes((raw / "dataset.json").read_bytes())
    with pytest.raises(ValueError, match="c0_0000.nii.gz (is damaged|cannot be used)"):
        check(raw)
    monkeypatch.setattr(integrity, "check_complete", lambda file: None)
    write_description(raw, file_ending=".nrrd")
    for file in [*raw.glob("imagesTr/*"), *raw.glob("labelsTr/*")]:
        file.rename(file.with_name(file.name.replace(".nii.gz", ".nrrd")))
    with pytest.raises(ValueError, match="c0_0000.nrrd cannot be read as an image: .*"):
        check(raw)


def test_wrong_number_of_cases(raw):
    """Noticed without the reading of the images."""
    with pytest.raises(ValueError, match=r"dataset.json, numTraining: it is 4, but there are 3 cases \(c0, c1, c2"):
        find_cases(raw, {**DESCRIPTION, "numTraining": 4})


def test_all_cases_that_fail_are_named_and_what_differs_a_little_is_told(raw, capsys):
    for case in ("c0", "c2"):
        write_image(raw / "labelsTr" / f"{case}.nii.gz", label_map()[1:])
    moved = SimpleITK.GetImageFromArray(label_map())
    moved.SetOrigin((0, 0, 5))
    SimpleITK.WriteImage(moved, str(raw / "labelsTr" / "c1.nii.gz"))
    with pytest.raises(ValueError, match=r"case c0 of .*\(and 1 more cases fail: c2\)"):
        check(raw)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("c1: Warning: Origin mismatch")


@pytest.mark.slow
def test_processes_of_their_own_find_the_same(raw, capsys):
    check(raw, processes=2)
    write_image(raw / "labelsTr" / "c1.nii.gz", label_map() + 1)
    with pytest.raises(ValueError, match="c1.nii.gz has the value 3"):
        check(raw, processes=2)


@pytest.mark.parametrize("skipped", [True, False])
def test_the_command_refuses_before_anything_is_computed(raw, tmp_path, monkeypatch, capsys, skipped):
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    write_image(raw / "labelsTr" / "c1.nii.gz", label_map() + 1)
    reached = []
    monkeypatch.setattr(
        "nnunetv2_mamba.planning.command.extract_fingerprint_dataset",
        lambda *_, **__: reached.append(True) or (_ for _ in ()).throw(ValueError("reached")),
    )
    options = ["--no_integrity_check"] if skipped else []
    assert main(["plan", "-d", "903", "--network", "SegMamba", "-np", "1", *options]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert bool(reached) == skipped
    assert re.fullmatch("nnunetv2_mamba plan: " + ("reached" if skipped else "case c1 of .*has the value 3, .*"), line)
