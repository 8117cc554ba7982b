import inspect
import json
import re
import shutil
from pathlib import Path

import layouts
import pytest
import SimpleITK

from nnunetv2_mamba.packaging.inference_settings import InferenceSettings
from nnunetv2_mamba.packaging.platforms import PLATFORMS, Platform, base_platform
from nnunetv2_mamba.packaging.platforms.brats import modality_of


@pytest.fixture
def files(tmp_path):
    names = [tmp_path / f"source_{number}.nii.gz" for number in range(2)]
    for name in names:
        SimpleITK.WriteImage(SimpleITK.Image(4, 5, 6, SimpleITK.sitkUInt8), name)
    return names


def find(platform, folder, target, **settings):
    return PLATFORMS[platform].find_cases(folder, target, InferenceSettings(platform, **settings))


@pytest.mark.parametrize("key", ["interface", "socket"])
def test_grand_challenge_takes_its_channels_by_slug(tmp_path, files, key):
    folder = layouts.grand_challenge(tmp_path / "input", ["ct", "pet"], files, key)
    (case,) = find("grand-challenge", folder, tmp_path / "out", channels=("pet", "ct"), output="images/organs")
    assert [file.parent.name for file in case.images] == ["pet", "ct"]
    assert case.output == tmp_path / "out/images/organs/output.mha"


def test_grand_challenge_follows_the_relative_path_of_a_socket(tmp_path, files):
    folder = layouts.grand_challenge(tmp_path / "input", ["ct"], files[:1])
    sockets = [{"interface": {"slug": "ct-image", "relative_path": "images/ct"}}]
    (folder / "inputs.json").write_text(json.dumps(sockets))
    for channels in ((), ("ct-image",)):
        (case,) = find("grand-challenge", folder, tmp_path, channels=channels, output="images/organs")
        assert case.images[0].parent == folder / "images/ct"


@pytest.mark.parametrize(
    ("channels", "change", "message"),
    [
        ((), lambda folder: None, r"inputs.json has several images \(ct, pet\)"),
        (("mri",), lambda folder: None, "inputs.json has no image mri; it has ct, pet"),
        (("ct",), lambda folder: (folder / "inputs.json").write_text("{"), "inputs.json is not grand-challenge's"),
        (
            ("ct",),
            lambda folder: (folder / "inputs.json").write_text('{"a": 1}'),
            "inputs.json is not grand-challenge's",
        ),
        (("ct",), lambda folder: (folder / "inputs.json").write_text("[]"), "inputs.json names no image"),
        (
            ("ct",),
            lambda folder: (folder / "inputs.json").write_text(
                '[{"socket": {"slug": "ct", "relative_path": "images/../../ct"}}]'
            ),
            "inputs.json names no image",
        ),
        (("ct",), lambda folder: (folder / "inputs.json").unlink(), "inputs.json is missing"),
        (("ct",), lambda folder: (folder / "images/ct/b.mha").touch(), "images/ct must have one .mha file and has 2"),
        (
            ("ct",),
            lambda folder: next((folder / "images/ct").iterdir()).rename(folder / "images/ct/x.tif"),
            "images/ct must have one .mha file and has 0; it has x.tif",
        ),
    ],
)
def test_grand_challenge_names_what_is_wrong(tmp_path, files, channels, change, message):
    folder = layouts.grand_challenge(tmp_path / "input", ["ct", "pet"], files)
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find("grand-challenge", folder, tmp_path, channels=channels, output="images/organs")


def test_brats_joins_case_and_modality_by_either_sign(tmp_path, files):
    """``_`` in the task of meningiomas before radiotherapy; a missing file is named with ``-``."""
    case = tmp_path / "input" / "BraTS-MEN-RT-0001-1"
    case.mkdir(parents=True)
    shutil.copy(files[0], case / "BraTS-MEN-RT-0001-1_t1c.nii.gz")
    (found,) = find("brats", tmp_path / "input", tmp_path, channels=("t1c", "t2f"))
    assert [file.name.removeprefix(case.name) for file in found.images] == ["_t1c.nii.gz", "-t2f.nii.gz"]


def test_brats_folder_that_may_not_be_read_is_one_case_that_fails(tmp_path, files, monkeypatch):
    folder = layouts.brats(tmp_path / "input", ["t1c", "t2w"], dict.fromkeys("ab", files))

    def look(path, found=Path.is_file):
        if path.parent.name == "a":  # Python before 3.14 does not say False of what it may not see
            raise PermissionError(13, "Permission denied", str(path))
        return found(path)

    monkeypatch.setattr(Path, "is_file", look)
    cases = find("brats", folder, tmp_path / "out", channels=("t1c", "t2w"))
    assert [case.images[1] for case in cases] == [folder / "a/a-t2w.nii.gz", folder / "b/b-t2w.nii.gz"]


def test_brats_has_a_folder_per_case(tmp_path, files):
    names = ["BraTS-GLI-00001-000", "BraTS-GLI-00000-000"]
    folder = layouts.brats(tmp_path / "input", ["t1c", "t2w"], dict.fromkeys(names, files))
    (folder / "readme.txt").touch()
    cases = find("brats", folder, tmp_path / "out", channels=("t2w", "t1c"))
    assert [case.name for case in cases] == sorted(names)
    assert [file.name for file in cases[0].images] == [f"{names[1]}-t2w.nii.gz", f"{names[1]}-t1c.nii.gz"]
    assert cases[0].output == tmp_path / f"out/{names[1]}.nii.gz"


@pytest.mark.parametrize(
    ("name", "modality"),
    [("T1", "t1n"), ("T1Gd", "t1c"), ("t1ce", "t1c"), ("T2-FLAIR", "t2f"), ("T2w", "t2w"), ("MRI", None), ("CT", None)],
)
def test_brats_tells_modalities_by_their_names(name, modality):
    assert modality_of(name) == modality


def test_flare_strips_the_channel(tmp_path, files):
    folder = layouts.flare(tmp_path / "inputs", {"FLARETs_0002": files[:1], "FLARETs_0001": files[:1]})
    for name in ("notes.txt", "._FLARETs_0001_0000.nii.gz", ".DS_Store"):
        (folder / name).touch()
    cases = find("flare", folder, tmp_path / "outputs")
    assert [(case.name, len(case.images), case.problem) for case in cases] == [
        ("FLARETs_0001", 1, ""),
        ("FLARETs_0002", 1, ""),
    ]
    assert cases[0].output == tmp_path / "outputs/FLARETs_0001.nii.gz"


@pytest.mark.parametrize("missing", [0, 1])
def test_flare_lists_a_channel_that_is_missing(tmp_path, files, missing):
    folder = layouts.flare(tmp_path / "inputs", {"a": files})
    (folder / f"a_{missing:04d}.nii.gz").unlink()
    (case,) = find("flare", folder, tmp_path, n_channels=2)
    assert [file.name for file in case.images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_flare_names_a_channel_too_many(tmp_path, files):
    (case,) = find("flare", layouts.flare(tmp_path / "inputs", {"a": files}), tmp_path)
    assert case.problem.endswith("a_0001.nii.gz is a channel too many: the model takes 1, from _0000 on")


@pytest.mark.parametrize("name", ["forgotten.nii.gz", "plain_0000.nii", "UPPER_0000.NII.GZ"])
@pytest.mark.parametrize("alone", [True, False])
def test_images_of_other_names_are_not_missed(tmp_path, files, name, alone):
    for platform, layout, settings in (
        ("flare", layouts.flare, {}),
        ("brats", lambda folder, cases: layouts.brats(folder, ["t1n"], cases), {"channels": ("t1n",)}),
    ):
        folder = layout(tmp_path / platform, {"case": files[:1]})
        if alone:
            shutil.rmtree(folder)
            folder.mkdir()
        (folder / name).write_bytes(files[0].read_bytes())
        cases = find(platform, folder, tmp_path, **settings)
        assert [case.name for case in cases if case.problem] == [name]
        assert [case.name for case in cases if not case.problem] == ([] if alone else ["case"])
        assert all(f"{folder / name} is not" in case.problem for case in cases if case.problem)


def test_grand_challenge_takes_no_hidden_file_for_an_image(tmp_path, files):
    folder = layouts.grand_challenge(tmp_path / "input", ["ct"], files[:1])
    (folder / "images/ct/._6f1c-0.mha").touch()
    (case,) = find("grand-challenge", folder, tmp_path, output="images/organs")
    assert case.images[0].name == "6f1c-0.mha"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_empty_folder_is_named(tmp_path, platform):
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        find(platform, tmp_path, tmp_path)


@pytest.mark.parametrize("platform", PLATFORMS.values(), ids=PLATFORMS)
def test_a_platform_says_what_the_documentation_needs(platform):
    templates = Path(base_platform.__file__).parents[1] / "templates"
    assert {path.name for path in templates.iterdir() if path.is_dir()} <= {"common", *PLATFORMS}  # each is somebody's
    assert all("`" in text for text in (platform.reads, platform.writes))
    assert inspect.getdoc(type(platform)) != inspect.getdoc(Platform)


def test_no_template_asks_for_the_name_of_a_platform():
    templates = (Path(base_platform.__file__).parents[1] / "templates").rglob("*.jinja")
    tags = [tag for file in templates for tag in re.findall(r"\{[{%].*?[%}]\}", file.read_text())]
    assert len(tags) > 50
    assert not [tag for tag in tags if re.search(r"platform(\.name)? *(==|!=| in )", tag)]


def test_two_platforms_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two platforms are named flare"):
        base_platform.register(PLATFORMS["flare"])


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_case_is_found_as_it_was_laid_out(tmp_path, platform):
    """Each channel is the image that was given for it, and the files are whole."""
    sources = [tmp_path / f"source_{number}.nii.gz" for number in range(len(layouts.MODALITIES))]
    for number, file in enumerate(sources):
        SimpleITK.WriteImage(SimpleITK.Image(4, 5, 6, SimpleITK.sitkInt16) + number, file)
    options = layouts.OPTIONS.get(platform, {})
    names = [f"channel {number}" for number in range(len(sources))]
    settings = InferenceSettings(
        platform, n_channels=len(sources), **PLATFORMS[platform].settings(options, names, ["small"])
    )
    (tmp_path / "input").mkdir()
    PLATFORMS[platform].lay_out(sources, tmp_path / "input", settings)
    (case,) = PLATFORMS[platform].find_cases(tmp_path / "input", tmp_path / "output", settings)
    assert not case.problem
    assert [layouts.voxels(file).max() for file in case.images] == [0, 1, 2, 3]
    assert {layouts.geometry(file) for file in case.images} == {layouts.geometry(sources[0])}
