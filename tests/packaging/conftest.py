"""A model of four channels that has seen nothing: small, but in all else what nnU-Net's training leaves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from engines import ENGINES, Engine
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_dataset import NAME, make_tiny_dataset
from trained_model import TrainedModel

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging import hashed_requirements, wheel
from nnunetv2_mamba.trainers import nnUNetTrainerUMambaBot


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    root = tmp_path_factory.mktemp("packaging")
    dataset = make_tiny_dataset(root, channels=4)
    folder = root / "results" / NAME / "nnUNetTrainerUMambaBot__tinyUMambaBotPlans__3d_fullres"
    with patch.dict(os.environ, {**dataset.environment(), "nnUNet_extTrainer": DISCOVERY}):
        torch.manual_seed(0)
        trainer = nnUNetTrainerUMambaBot(
            {**dataset.plans("tinyUMambaBotPlans"), "continue_training": False},
            "3d_fullres",
            0,
            dataset.dataset_json(),
            torch.device("cpu"),
        )
        trainer.initialize()
        _let_it_see_all_labels(trainer)
        (folder / "fold_0").mkdir(parents=True, exist_ok=True)
        trainer.inference_allowed_mirroring_axes = (0, 1)
        trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
        shutil.copytree(folder / "fold_0", folder / "fold_1")
        for name in ("tinyUMambaBotPlans", "dataset"):
            source = dataset.preprocessed / NAME / f"{name}.json"
            shutil.copy(source, folder / ("dataset.json" if name == "dataset" else "plans.json"))
        images = sorted(dataset.images.iterdir())
        cases = {f"case_{index}": images[4 * index : 4 * index + 4] for index in range(3)}
        references = _predict_with_nnunet(folder, cases, root / "references")
    return TrainedModel(folder, cases, references)


@torch.no_grad()
def _let_it_see_all_labels(trainer: nnUNetTrainerUMambaBot) -> None:
    """Give every label about as many voxels; an untrained network says one nearly everywhere, whatever is computed."""
    x = torch.randn(1, 4, *trainer.configuration_manager.patch_size)
    logits = trainer.network.eval()(x)[0]
    head = trainer.network.decoder.seg_layers[0]
    mean, deviation = logits.mean((0, 2, 3, 4)), logits.std((0, 2, 3, 4))
    head.weight /= deviation.view(-1, 1, 1, 1, 1)
    head.bias -= mean
    head.bias /= deviation


def _predict_with_nnunet(folder: Path, cases: dict[str, list[Path]], output: Path) -> dict[str, Path]:
    """What ``nnUNetv2_predict`` does, without its background processes."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0, 1))
    output.mkdir()
    references = {name: output / f"{name}.nii.gz" for name in cases}
    predictor.predict_from_files_sequential(
        [[str(file) for file in files] for files in cases.values()],
        [str(file).removesuffix(".nii.gz") for file in references.values()],
    )
    return references


@pytest.fixture
def one_channel(trained_model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model as it would be of one channel, as the documentation's is."""
    folder = tmp_path / "MODEL"
    plans, dataset = (json.loads((trained_model.folder / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    dataset["channel_names"] = {"0": "T1"}
    monkeypatch.setenv("nnUNet_preprocessed", str(trained_model.folder.parents[2] / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    arguments = {**plans, "continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu")
    trainer = nnUNetTrainerUMambaBot(*arguments)
    trainer.initialize()
    (folder / "fold_0").mkdir(parents=True)
    trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    for name, document in (("plans", plans), ("dataset", dataset)):
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def built_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.write_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """What builds and runs containers; skips with the reason where it cannot."""
    start, why_not = ENGINES[request.param]
    if reason := why_not():
        pytest.skip(reason)
    with start(tmp_path_factory.mktemp(request.param) / "storage") as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command asks an index for hashes where uv is installed; no test but those of hashes does."""
    monkeypatch.setattr(hashed_requirements, "find_uv", lambda: None)
