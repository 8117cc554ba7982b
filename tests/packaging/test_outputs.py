"""What is written beside a segmentation: probability maps and volumes, for ``predict`` and for a container."""

import json
import pickle
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import layouts
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_mamba import files
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation.component_filter import filtered
from nnunetv2_mamba.evaluation.component_rules import ComponentFilter, ComponentRule
from nnunetv2_mamba.evaluation.measured_labels import read_labels
from nnunetv2_mamba.evaluation.probabilities import read_probabilities
from nnunetv2_mamba.packaging import case_writing, container, folder_prediction
from nnunetv2_mamba.packaging.case_predictor import SegmentedCase
from nnunetv2_mamba.packaging.case_writing import volumes_ml, write_case
from nnunetv2_mamba.packaging.image_grid import ImageGrid
from nnunetv2_mamba.packaging.image_io import as_nifti, lie_as, read_geometry, write_scaled_nifti
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings
from nnunetv2_mamba.packaging.outputs import ENCODINGS, Output
from nnunetv2_mamba.packaging.platforms import PLATFORMS, CaseFiles

LABELS = {"background": 0, "large": 1, "small": 2}
TUMOUR = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": 3}


@pytest.fixture(autouse=True)
def trainers_are_found(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture(scope="module")
def of_nnunet(trained_model, tmp_path_factory):
    """The folder of a case by nnU-Net, with ``--save_probabilities``."""
    folder = tmp_path_factory.mktemp("of_nnunet")
    predictor = nnUNetPredictor(1.0, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained_model.folder), (0,))
    files = [str(file) for file in trained_model.cases["case_0"]]
    predictor.predict_from_files_sequential([files], [str(folder / "case_0")], save_probabilities=True)
    return folder


@pytest.fixture
def arguments(trained_model, tmp_path):
    """Of ``predict``, as nnU-Net predicts in ``of_nnunet``, and the output folder."""
    images, output = layouts.flare(tmp_path / "images", {"case_0": trained_model.cases["case_0"]}), tmp_path / "out"
    model = ["-m", str(trained_model.folder), "-f", "0", "--disable_tta", "-step_size", "1", "-device", "cpu"]
    return ["-i", str(images), "-o", str(output), *model], output


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_predicted_maps_and_volumes(arguments, of_nnunet, encoding):
    """The maps are nnU-Net's probabilities to half a step; nnU-Net finds the segmentation only; volumes are counted."""
    arguments, output = arguments
    assert main(["predict", *arguments, "--probabilities", encoding, "--volumes"]) == 0
    assert sorted(file.name for file in output.iterdir()) == [
        *("case_0.nii.gz", "dataset.json", "plans.json", "probabilities", "volumes.json")
    ]
    largest = ENCODINGS[encoding]
    theirs = np.load(of_nnunet / "case_0.npz")["probabilities"]
    for head, label in enumerate(("large", "small"), 1):
        file = output / "probabilities" / label / "case_0.nii.gz"
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        assert layouts.geometry(file) == layouts.geometry(output / "case_0.nii.gz")
        stored = nibabel.load(file).get_data_dtype()
        assert stored == encoding
        tolerance = 0.5 / largest if largest else 0
        for read in (layouts.voxels(file), nibabel.load(file).get_fdata().T):
            np.testing.assert_allclose(read, theirs[head], atol=tolerance + 1e-6)
    labels = layouts.voxels(output / "case_0.nii.gz")
    voxel = np.prod(layouts.geometry(output / "case_0.nii.gz")[1])
    volumes = json.loads((output / "volumes.json").read_text())
    assert volumes == {
        "case_0": {
            name: pytest.approx((labels == value).sum() * voxel / 1000) for name, value in (("large", 1), ("small", 2))
        }
    }
    assert volumes["case_0"]["large"] > 0


def test_what_nnunet_saves(arguments, of_nnunet, tmp_path, capsys):
    """The files are nnU-Net's, and its ensembling takes them; an image without a channel is named."""
    arguments, output = arguments
    stray = Path(arguments[arguments.index("-i") + 1]) / "stray.nii.gz"
    stray.touch()
    assert main(["predict", *arguments, "--save_probabilities", "--probabilities", "uint8"]) == 1
    assert f"{stray} " in capsys.readouterr().err
    ours, theirs = (np.load(folder / "case_0.npz") for folder in (output, of_nnunet))
    assert ours.files == theirs.files
    ours, theirs = ours["probabilities"], theirs["probabilities"]
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(ours, read_probabilities(output / "case_0.npz", theirs.shape))
    assert pickle.loads((output / "case_0.pkl").read_bytes()).keys() == load_pickle(of_nnunet / "case_0.pkl").keys()
    ensemble_folders([str(output), str(output)], str(tmp_path / "ensemble"), num_processes=1)
    layouts.assert_same_labels(tmp_path / "ensemble/case_0.nii.gz", output / "case_0.nii.gz")


def test_a_case_with_a_map_missing_is_predicted_again(arguments, capsys):
    arguments, output = arguments
    again = ["predict", *arguments, "--continue_prediction"]
    for options, done in (
        ([], 1),
        (["--probabilities", "uint8"], 1),
        (["--probabilities", "uint8", "--volumes"], 0),
        (["--probabilities", "uint8", "--save_probabilities"], 1),
    ):
        assert main([*again, *options]) == 0
        assert f"{done} of {done} cases done" in capsys.readouterr().out
    assert list(json.loads((output / "volumes.json").read_text())) == ["case_0"]


def test_predicted_components_are_filtered(arguments, tmp_path, capsys):
    """The labels are those without the filter, filtered; a rule for a label that the model lacks is said at once."""
    arguments, output = arguments
    file = tmp_path / "filter.json"
    file.write_text(json.dumps({"rules": {"small": {"smallest_mm3": 0, "largest": 1}}}))
    assert main(["predict", *arguments]) == 0
    assert "components removed" not in capsys.readouterr().out
    before = layouts.voxels(output / "case_0.nii.gz")
    assert main(["predict", *arguments, "--component-filter", str(file)]) == 0
    expected, removed = filtered(before, ComponentFilter.read(file), {"large": (1,), "small": (2,)}, 1.0)
    assert removed["small"] > 0
    np.testing.assert_array_equal(layouts.voxels(output / "case_0.nii.gz"), expected)
    assert f", {removed['small']} components removed, " in capsys.readouterr().out
    file.write_text(json.dumps({"rules": {"liver": {}}}))
    assert main(["predict", *arguments, "--component-filter", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the component filter has a rule for 'liver'; the labels are large, small")


def test_folders_of_maps_have_names_that_every_system_takes(tmp_path):
    labels = read_labels({"labels": {"background": 0, "../left lobe": 1, "Größe": 2}}, None)
    case = folder_prediction._with_maps(CaseFiles("c", (), tmp_path / "c.nii"), labels, tmp_path, "uint8")
    assert [output.path.relative_to(tmp_path).as_posix() for output in case.more_outputs] == [
        *("_._left_lobe/c.nii.gz", "Größe/c.nii.gz")
    ]
    for first, second in (("left/lobe", "left_lobe"), ("Left lobe", "Left_lobe")):
        labels = read_labels({"labels": {"background": 0, first: 1, "left lobe": 2}}, None)
        with pytest.raises(ValueError, match=f"differ in signs or case only, as folders: {second}, left_lobe; rename"):
            folder_prediction._with_maps(case, labels, tmp_path, "uint8")


def test_outputs_of_grand_challenge_lie_askew_as_the_input(trained_model, tmp_path):
    slugs = [f"mri-{number}" for number in range(4)]
    inputs = layouts.grand_challenge(tmp_path / "input", slugs, trained_model.cases["case_0"])
    options = {
        "interface": [
            *("organs=output", "likely=probability:small", "all-ml=volumes", "ml@results/small.json=volumes:small"),
            *(f"{slug}={number}" for number, slug in enumerate(slugs)),
        ]
    }
    fields = PLATFORMS["grand-challenge"].settings(options, ["a", "b", "c", "d"], ["large", "small"])
    none_is_so_large = ComponentFilter({"large": ComponentRule(smallest_mm3=1e9)})
    choices = Choices(("0",), mirroring=False, step_size=1, component_filter=none_is_so_large)
    settings = InferenceSettings("grand-challenge", model=str(trained_model.folder), choices=choices, **fields)
    settings.write(tmp_path / "inference.json")
    assert InferenceSettings.read(tmp_path / "inference.json") == settings
    output = tmp_path / "output"
    arguments = [str(tmp_path / "inference.json"), "--input", str(inputs), "--output", str(output)]
    assert container.main(arguments) == 0
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert written == ["all-ml.json", "images/likely/output.mha", "images/organs/output.mha", "results/small.json"]
    source = next((inputs / "images/mri-0").iterdir())
    for name in ("likely", "organs"):
        assert layouts.geometry(output / f"images/{name}/output.mha") == layouts.geometry(source)
    likely, organs = (SimpleITK.ReadImage(output / f"images/{name}/output.mha") for name in ("likely", "organs"))
    assert likely.GetPixelID() == SimpleITK.sitkFloat32
    likely, organs = (SimpleITK.GetArrayFromImage(image) for image in (likely, organs))
    assert 0 <= likely.min() < likely.max() <= 1
    assert (likely > 0.5).any() and (organs[likely > 0.5] == 2).all()  # of three classes
    volumes = json.loads((output / "all-ml.json").read_text())
    assert json.loads((output / "results/small.json").read_text()) == volumes["small"] > 0
    assert volumes["large"] == 0 and set(np.unique(organs)) == {0, 2}


@pytest.mark.parametrize(
    ("interfaces", "message"),
    [
        (["a=output", "b=probability:liver"], "--interface b=probability:liver: the model's labels are large, small"),
        (["a=output", "b=volumes:liver"], "--interface b=volumes:liver: the model's labels are large, small"),
        (["a=output", "b@images/a=probability:small"], "two outputs at images/a/output.mha"),
        (["a=output", "b=volumes", "c@b.json=volumes:small"], "two outputs at b.json"),
        (["b=probability:small"], "needs --interface SLUG=output"),
        (["a=output", "b@../c.json=volumes"], "relative path without .."),
        (["a=output", "b=probability"], "give each channel once"),
        (["a=output", "b=npz"], "give each channel once"),
    ],
)
def test_wrong_outputs_of_grand_challenge(interfaces, message):
    with pytest.raises(ValueError, match=message):
        PLATFORMS["grand-challenge"].settings({"interface": interfaces}, ["CT"], ["large", "small"])


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
def test_what_a_reader_reads_is_an_image_again(reader, tmp_path):
    """Whatever a reader does to the axes: its own array, floats, gives back the file's."""
    rng = np.random.default_rng(0)
    image = SimpleITK.GetImageFromArray(rng.random((5, 6, 7), dtype=np.float32))
    image.SetSpacing((0.9, 1.1, 2.5))
    image.SetDirection([0, 0, -1, 1, 0, 0, 0, -1, 0])
    image.SetOrigin((10, -20, 30))
    file = tmp_path / "image.nii.gz"
    SimpleITK.WriteImage(image, file)
    geometry = read_geometry([file])
    array, properties = reader().read_images([str(file)])
    again = ImageGrid(reader(), properties, geometry).image(array[0])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), SimpleITK.GetArrayFromImage(image))
    assert again.GetDirection() == SimpleITK.ReadImage(file).GetDirection()
    with pytest.raises(ValueError, match="turned the axes of"):
        ImageGrid(reader(), properties, geometry).image(array[0, 1:])


@pytest.mark.parametrize("reader", [SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient])
@pytest.mark.parametrize("orientation", ["qform", "sform", "none"])
def test_a_negative_spacing_turns_its_axis_around(reader, orientation, tmp_path):
    """So do ITK, and nnU-Net's command, where a header says it."""
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).random((5, 6, 7), dtype=np.float32))
    image.SetSpacing((0.9, 1.1, 2.5))
    image.SetOrigin((10, -20, 30))
    file = tmp_path / "image.nii"
    SimpleITK.WriteImage(image, file)
    content = bytearray(file.read_bytes())
    struct.pack_into("<f", content, 76 + 3 * 4, -2.5)  # pixdim[3]
    codes = {"qform": (1, 0), "sform": (0, 1), "none": (0, 0)}
    struct.pack_into("<2h", content, 252, *codes[orientation])
    file.write_bytes(content)
    expected = SimpleITK.ReadImage(file)
    array, properties = reader().read_images([str(file)])
    geometry = read_geometry([file])
    again = ImageGrid(reader(), properties, geometry).image(array[0])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), SimpleITK.GetArrayFromImage(expected))
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(again, what)() == getattr(expected, what)()
    SimpleITK.WriteImage(again, tmp_path / "segmentation.nii.gz")
    lie_as(tmp_path / "segmentation.nii.gz", file)
    assert read_geometry([file, tmp_path / "segmentation.nii.gz"]) == geometry  # as the check of a container sees it


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(0, 0), (1, 4), (1, 0), (0, 1), (1, 1)])
def test_nibabel_and_itk_see_image_and_segmentation_at_one_place(codes, ending, tmp_path):
    """Though, of a header with two places or none, each chooses its own."""
    image, file, written = (
        nibabel.Nifti1Image(np.zeros((5, 6, 7), np.float32), None),
        *(tmp_path / f"{name}{ending}" for name in ("image", "segmentation")),
    )
    forms = [np.diag([0.9, 1.1, 2.5, 1]), np.diag([-0.9, 1.1, 2.5, 1])]
    image.header.set_zooms((0.9, 1.1, 2.5))
    for set_form, form, code in zip((image.set_qform, image.set_sform), forms, codes, strict=True):
        set_form(form, code)
    nibabel.save(image, file)
    labels = SimpleITK.GetImageFromArray(np.arange(210, dtype=np.uint8).reshape(7, 6, 5))
    labels.CopyInformation(SimpleITK.ReadImage(file))
    SimpleITK.WriteImage(labels, written)
    lie_as(written, file)
    np.testing.assert_allclose(nibabel.load(written).affine, nibabel.load(file).affine)
    assert layouts.geometry(written) == layouts.geometry(file)
    np.testing.assert_array_equal(layouts.voxels(written), SimpleITK.GetArrayFromImage(labels))


def test_volumes_of_an_oblique_image_and_of_regions():
    """Two voxels of 0.5 x 2 x 3 mm are 0.006 ml, whichever way they lie; a region has the voxels of all its values."""
    image = SimpleITK.GetImageFromArray(np.array([[[0, 1, 1, 2, 3, 3, 3]]], np.uint8))
    image.SetSpacing((0.5, 2, 3))
    image.SetDirection(layouts.ASKEW)
    regions = read_labels({"labels": TUMOUR, "regions_class_order": [1, 2, 3]}, None)
    assert volumes_ml(image, regions) == pytest.approx({"whole": 0.018, "core": 0.012, "inner": 0.009})
    labels = read_labels({"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}}, None)
    assert volumes_ml(image, labels) == pytest.approx({"a": 0.006, "b": 0.003, "c": 0.009, "d": 0})


class Segmenter:
    """Stands in for a model: gives a map, then the segmentation."""

    labels = read_labels({"labels": LABELS}, None)

    def __init__(self, during=lambda: None):
        self._during = during

    def segment(self, images, started, previous, probabilities):
        image = SimpleITK.GetImageFromArray(np.ones((2, 3, 4), np.uint8))
        for _, take in probabilities:
            take(np.full((2, 3, 4), 0.25, np.float32), SimpleNamespace(image=SimpleITK.GetImageFromArray))
        self._during()
        return SegmentedCase(image, "")


def case_of(folder):
    more = (Output("probability", folder / "map/c.nii.gz", "small"), Output("volumes", folder / "ml.json"))
    return CaseFiles("c", (folder / "in.mha",), folder / "c.nii.gz", more_outputs=more)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_nothing_is_left_of_a_case_that_nobody_wants_or_that_fails(tmp_path):
    with pytest.raises(ValueError, match="waits no longer"):
        write_case(case_of(tmp_path), Segmenter(), 0.0, lambda: False)
    assert files_in(tmp_path) == []

    def fail():
        assert any(name.startswith("map/.partial-") for name in files_in(tmp_path))
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        write_case(case_of(tmp_path), Segmenter(fail), 0.0, lambda: True)
    assert files_in(tmp_path) == []
    (tmp_path / "c.nii.gz").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match=r"c\.nii\.gz"):
        write_case(case_of(tmp_path), Segmenter(), 0.0, lambda: True)


def test_what_a_killed_process_left_of_a_compressed_map_goes(tmp_path):
    case = case_of(tmp_path)
    left = tmp_path / "map" / f".partial-{files._host()}-{2**22 + 7}-0-c.nii"
    left.parent.mkdir()
    left.touch()
    map_of = replace(case, more_outputs=(replace(case.more_outputs[0], encoding="uint8"),))
    write_case(map_of, Segmenter(), 0.0, lambda: True)
    assert files_in(tmp_path) == ["c.nii.gz", "map/c.nii.gz"]


@pytest.fixture
def full_disk():
    """A limit on the size of files stands in for it; of most formats ITK says nothing where that ends a write."""
    resource = pytest.importorskip("resource", reason="Windows limits no sizes")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def noise(edge):
    return SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (edge, edge, edge), np.uint8))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".gipl", ".mha", ".nrrd"])
def test_a_full_disk_leaves_no_part_of_a_segmentation(tmp_path, full_disk, ending):
    segmenter = SimpleNamespace(segment=lambda *arguments, **options: SegmentedCase(noise(60), ""))
    case = CaseFiles("c", (), tmp_path / f"c{ending}")
    with pytest.raises(OSError, match=rf"^{case.output} (cannot be written: .|was not written whole; is the disk)"):
        write_case(case, segmenter, 0.0, lambda: True)
    assert files_in(tmp_path) == []


def test_a_full_disk_is_not_taken_for_a_damaged_image(tmp_path, full_disk):
    SimpleITK.WriteImage(noise(40), tmp_path / "a.mha")
    image = SimpleITK.ReadImage(tmp_path / "a.mha", SimpleITK.sitkFloat32)
    SimpleITK.WriteImage(image, tmp_path / "a.mha", useCompression=True)
    with pytest.raises(OSError, match=rf"^the copy of {tmp_path / 'a.mha'} in {tmp_path} was not written whole"):
        as_nifti(tmp_path / "a.mha", tmp_path / "0.nii")


def test_the_segmentation_appears_last(tmp_path, monkeypatch):
    there = []
    whole = case_writing.written_whole
    monkeypatch.setattr(case_writing, "written_whole", partial(Noting, whole, there, tmp_path))
    write_case(case_of(tmp_path), Segmenter(), 0.0, lambda: True)
    assert there == [["ml.json"], ["map/c.nii.gz", "ml.json"], ["c.nii.gz", "map/c.nii.gz", "ml.json"]]
    assert json.loads((tmp_path / "ml.json").read_text()) == {"large": 0.024, "small": 0}


def test_all_that_is_written_lies_where_nibabel_sees_the_image(tmp_path):
    source = tmp_path / "in.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2), np.uint8), None), source)  # neither qform nor sform
    case = replace(case_of(tmp_path), images=(source,))
    write_case(case, Segmenter(), 0.0, lambda: True)
    for file in (case.output, case.more_outputs[0].path):
        np.testing.assert_allclose(nibabel.load(file).affine, nibabel.load(source).affine)


class Noting:
    """``written_whole`` that notes which files have their names after each."""

    def __init__(self, whole, there, folder, path):
        self._context, self._there, self._folder = whole(path), there, folder

    def __enter__(self):
        return self._context.__enter__()

    def __exit__(self, *error):
        result = self._context.__exit__(*error)
        self._there.append([name for name in files_in(self._folder) if ".partial-" not in name])
        return result


def test_a_label_that_the_model_lacks(tmp_path):
    case = CaseFiles("c", (), tmp_path / "c.nii.gz", more_outputs=(Output("volumes", tmp_path / "v.json", "liver"),))
    with pytest.raises(ValueError, match="the model has no label 'liver', of which a file is asked for: large, small"):
        write_case(case, Segmenter(), 0.0, lambda: True)


def test_outputs_that_do_not_exist():
    for fields in ({"kind": "contours"}, {"kind": "probability", "encoding": "float16"}):
        with pytest.raises(ValueError, match="no output is"):
            Output(path=PurePosixPath("a"), **fields)


def test_scaled_nifti_is_read_with_its_slope_and_leaves_nothing_else(tmp_path):
    image = SimpleITK.GetImageFromArray(np.array([[[0, 51, 255]]], np.uint8))
    write_scaled_nifti(image, 1 / 255, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(layouts.voxels(tmp_path / "a.nii.gz").ravel(), [0, 0.2, 1], rtol=1e-6)
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii.gz").get_fdata().ravel(), [0, 0.2, 1], rtol=1e-6)
    assert files_in(tmp_path) == ["a.nii.gz"]
