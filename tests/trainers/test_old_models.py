"""Model folders and checkpoints of version 0.1 load, and predict what they predicted (``tests/golden/README.md``)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import assert_close
from golden_files import GOLDEN, drawn, sampled, weight
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_mamba import trainers

with np.load(GOLDEN / "models_0_1.npz") as _file:
    ARRAYS = dict(_file)
DESCRIPTION = json.loads(str(ARRAYS["description"]))
MODELS = DESCRIPTION["models"]
DATASET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def weights(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(weight(key, shape)) for key, shape in MODELS[name]["weights"].items()}


def write_model(folder: Path, name: str) -> Path:
    """A model folder with what prediction reads of it."""
    configuration = {
        "patch_size": DESCRIPTION["patch_size"],
        "architecture": MODELS[name]["architecture"],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "batch_size": 2,
    }
    plans = {
        "dataset_name": "Dataset001_Old",
        "plans_name": "oldPlans",
        "configurations": {"3d_fullres": configuration},
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
    }
    checkpoint = {
        "network_weights": weights(name),
        "trainer_name": name,
        "init_args": {"configuration": "3d_fullres", "fold": 0},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    (folder / "fold_0").mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_predicts_what_it_predicted(name, tmp_path):
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(write_model(tmp_path, name)), (0,))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    x = torch.from_numpy(2 * drawn("input", (1, 2, *DESCRIPTION["patch_size"])))
    with torch.no_grad():
        logits = predictor.network.double().eval()(x)
    assert_close(sampled(logits, 97), torch.from_numpy(ARRAYS[f"logits/{name}"]).double(), 1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_have_the_order_in_which_optimisers_number_them(name, tmp_path):
    """``--c`` gives an optimiser its state by number."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(write_model(tmp_path, name)), (0,))
    trainer = getattr(trainers, name)
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    supervised = trainer.recipe.enable_deep_supervision
    network = trainer.build_network_architecture(plans, configuration, 2, 3, supervised)
    assert [key for key, _ in network.named_parameters()] == list(MODELS[name]["weights"])
