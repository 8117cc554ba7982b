"""Several models on one case: by hand, as ``nnUNetv2_ensemble``, and what they must have in common."""

import json
import shutil

import layouts
import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import stored_logits
from nnunetv2_mamba.packaging.class_maps import Crop, LogitMaps
from nnunetv2_mamba.packaging.label_map import label_map
from nnunetv2_mamba.packaging.model_mean import ModelMean
from nnunetv2_mamba.temperature_file import write_temperature

CLASSES = LabelManager({"background": 0, "a": 1, "b": 2}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])


class Logits(LogitMaps):
    """Given ones, of the voxels of a row."""

    def __init__(self, labels, values, temperature=1.0):
        self.values = np.array(values, dtype=np.float16)[:, None, None]
        shape = self.values.shape[1:]
        super().__init__(labels, Crop(tuple(slice(0, edge) for edge in shape), shape), temperature)

    def head(self, index):
        return self.values[index]


def mean_of(models, average, folder=None):
    with ModelMean(average, folder) as mean:
        for model in models:
            mean.add(model)
        maps = mean.maps()
        labels = label_map(maps)[0, 0]
        return labels, np.stack([maps.probability(maps.head(head))[0, 0] for head in range(maps.n_heads)])


# --- by hand


def log(*shares):
    return np.log(np.array(shares) / 1000).T


def test_two_models_of_classes(monkeypatch, tmp_path):
    """Two voxels in which one model is sure and the other is not, by either mean, and with a temperature."""
    sure, unsure = log((10, 980, 10), (10, 10, 980)), log((500, 250, 250), (10, 700, 290))
    first, second = Logits(CLASSES, sure), Logits(CLASSES, unsure)
    for in_memory in (1 << 30, 0):
        monkeypatch.setattr(stored_logits, "_IN_MEMORY", in_memory)
        labels, probabilities = mean_of([first, second], "probabilities", tmp_path)
        np.testing.assert_allclose(probabilities.T, [[0.255, 0.615, 0.13], [0.01, 0.355, 0.635]], atol=2e-3)
        assert labels.tolist() == [1, 2]
    labels, probabilities = mean_of([first, second], "logits")
    products = np.sqrt([[10 * 500, 980 * 250, 10 * 250], [10 * 10, 10 * 700, 980 * 290]])
    np.testing.assert_allclose(probabilities.T, products / products.sum(1, keepdims=True), atol=2e-3)
    assert labels.tolist() == [1, 2]
    labels, probabilities = mean_of([Logits(CLASSES, sure, 8.0), second], "probabilities")
    raised = np.array([[10, 980, 10], [10, 10, 980]]) ** 0.125
    softened = raised / raised.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities.T, (softened + np.exp(unsure).T) / 2, atol=2e-3)
    assert labels.tolist() == [0, 1]  # the second model decides now


def test_two_models_of_regions():
    """Logits 4 and -1 are 0.98 and 0.27; -8 and 3 are 0.0003 and 0.95."""
    first, second = [[4.0, -8.0], [4.0, -8.0]], [[-1.0, 3.0], [-9.0, -9.0]]
    models = [Logits(REGIONS, first), Logits(REGIONS, second)]
    labels, probabilities = mean_of(models, "probabilities")
    sigmoid = 1 / (1 + np.exp(-np.array([first, second])))
    np.testing.assert_allclose(probabilities, sigmoid.mean(0), atol=1e-6)
    assert labels.tolist() == [1, 0]
    labels, probabilities = mean_of(models, "logits")
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp([[-1.5, 2.5], [2.5, 8.5]])), atol=1e-6)
    assert labels.tolist() == [1, 0]
    softened = [Logits(REGIONS, first, 5.0), Logits(REGIONS, second)]
    assert mean_of(softened, "probabilities")[0].tolist() == [0, 1]


def test_models_that_crop_differently_are_no_ensemble():
    with ModelMean("probabilities") as mean:
        mean.add(Logits(CLASSES, np.zeros((3, 2))))
        with pytest.raises(ValueError, match="the models crop the image differently"):
            mean.add(Logits(CLASSES, np.zeros((3, 3))))


# --- as nnU-Net


@pytest.fixture(autouse=True)
def trainers_are_found(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture(scope="module")
def other_model(trained_model, tmp_path_factory):
    """The model with a fold less, other weights in its head, another spacing, and another order of axes."""
    folder = shutil.copytree(trained_model.folder, tmp_path_factory.mktemp("other") / "model")
    shutil.rmtree(folder / "fold_1")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [1.3, 0.9, 1.1]
    plans["transpose_forward"], plans["transpose_backward"] = [2, 0, 1], [1, 2, 0]
    (folder / "plans.json").write_text(json.dumps(plans))
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    head = next(key for key in checkpoint["network_weights"] if key.endswith("seg_layers.0.weight"))
    checkpoint["network_weights"][head] = checkpoint["network_weights"][head].flip(0)
    torch.save(checkpoint, file)
    return folder


def by_nnunet(folder, cases, output):
    """What ``nnUNetv2_predict --save_probabilities`` writes."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    folds = tuple(int(path.name[5:]) for path in sorted(folder.glob("fold_*")))
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    output.mkdir(parents=True)
    predictor.predict_from_files_sequential(
        [[str(file) for file in files] for files in cases.values()],
        [str(output / name) for name in cases],
        save_probabilities=True,
    )
    for name in ("dataset", "plans"):
        shutil.copy(folder / f"{name}.json", output)


def voxels(file):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))


def test_the_labels_are_those_of_nnunets_ensemble(trained_model, other_model, tmp_path, capsys):
    cases = {"case_0": trained_model.cases["case_0"]}
    images = layouts.flare(tmp_path / "images", cases)
    models = [trained_model.folder, other_model]
    folders = [tmp_path / "theirs" / str(number) for number in (0, 1)]
    for model, folder in zip(models, folders, strict=True):
        by_nnunet(model, cases, folder)
    ensemble_folders([str(folder) for folder in folders], str(tmp_path / "together"), num_processes=1)
    arguments = ["-i", str(images), "-o", str(tmp_path / "ours"), "-device", "cpu", "-m", *map(str, models)]
    assert main(["predict", *arguments]) == 0
    assert "case_0.nii.gz, 2 models, 2 fold(s), mirroring, step size 0.5," in capsys.readouterr().out
    layouts.assert_same_labels(tmp_path / "ours" / "case_0.nii.gz", tmp_path / "together" / "case_0.nii.gz")
    theirs = voxels(tmp_path / "together" / "case_0.nii.gz")
    assert all(not np.array_equal(theirs, voxels(folder / "case_0.nii.gz")) for folder in folders)

    logits = []
    for folder in folders:
        with np.load(folder / "case_0.npz") as stored:
            logits.append(np.log(np.maximum(stored["probabilities"], 1e-38)))
    for temperatures in ((1, 1), (1, 7)):
        expected = sum(own / temperature for own, temperature in zip(logits, temperatures, strict=True)).argmax(0)
        for model, temperature in zip(models, temperatures, strict=True):
            write_temperature(model, temperature, {})
        assert main(["predict", *arguments, "--average", "logits", "--calibrated"]) == 0
        np.testing.assert_array_equal(voxels(tmp_path / "ours" / "case_0.nii.gz"), expected)
