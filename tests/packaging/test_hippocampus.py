"""The Decathlon's hippocampus, by nnU-Net's own commands, into each platform's container."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import layouts
import pytest
from commands import run
from documentation import ROOT
from shared_files import SHARED, why_absent
from test_built_containers import check, of_cases, run_as_the_platform_does, write_with
from trained_model import TrainedModel

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging.build_context import Request

NAME = "Dataset004_Hippocampus"
DATA = SHARED / "data" / NAME
ABSENT = why_absent("data", NAME)
MODEL = ("-d", 4, "-c", "3d_fullres", "-f", 0, "-tr", "nnUNetTrainerUMambaBot")
SHORT = "num_epochs=1, num_iterations_per_epoch=3, num_val_iterations_per_epoch=1"
N_TRAINING, N_PREDICTED = 10, 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ABSENT), reason=str(ABSENT)),
]


@pytest.fixture(scope="module")
def hippocampus(tmp_path_factory):
    """The model, what nnUNetv2_predict makes of some cases, and the ZIP of nnUNetv2_export_model_to_zip."""
    root = tmp_path_factory.mktemp("hippocampus")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (root / name).mkdir()
            patch.setenv(f"nnUNet_{name}", str(root / name))
        patch.setenv("nnUNet_extTrainer", DISCOVERY)
        patch.setenv("nnUNet_n_proc_DA", "1")  # the planner needs at least 1
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        images = _take_some(root)
        for name, *arguments in (
            ("nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "3d_fullres", "-np", 1, "-npfp", 1),
            ("nnUNetv2_train", 4, "3d_fullres", 0, *MODEL[-2:], "-device", "cpu"),
            (
                "nnUNetv2_predict",
                "-i",
                images,
                "-o",
                root / "predicted",
                *MODEL,
                "-device",
                "cpu",
                "-npp",
                1,
                "-nps",
                1,
            ),
            ("nnUNetv2_export_model_to_zip", *MODEL, "-o", root / "model.zip", "--not_strict"),
        ):
            if name == "nnUNetv2_train":
                _batches_of_two(root)
            run(root, name, *arguments, settings=SHORT)
    cases = {file.name.removesuffix("_0000.nii.gz"): [file] for file in sorted(images.iterdir())}
    references = {name: root / "predicted" / f"{name}.nii.gz" for name in cases}
    folder = root / "results" / NAME / "nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres"
    return TrainedModel(folder, cases, references), root / "model.zip"


def _take_some(root: Path) -> Path:
    """Copy the first cases; the folder of the images to predict."""
    description = json.loads((DATA / "dataset.json").read_text())
    for folder in ("imagesTr", "labelsTr"):
        (root / "raw" / NAME / folder).mkdir(parents=True)
        for file in sorted((DATA / folder).glob("*.nii.gz"))[:N_TRAINING]:
            shutil.copy(file, root / "raw" / NAME / folder)
    description["numTraining"] = N_TRAINING
    (root / "raw" / NAME / "dataset.json").write_text(json.dumps(description))
    (root / "images").mkdir()
    for file in sorted((root / "raw" / NAME / "imagesTr").iterdir())[:N_PREDICTED]:
        shutil.copy(file, root / "images")
    return root / "images"


def _batches_of_two(root: Path) -> None:
    file = root / "preprocessed" / NAME / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = 2
    file.write_text(json.dumps(plans))


@pytest.fixture
def package(built_wheel, tmp_path):
    """Write a platform's build context for a folder or ZIP of the model."""

    def write(source: Path, platform: str, **options) -> Path:
        image = f"nnunetv2-mamba-test-hippocampus-{platform}"
        write_with(built_wheel, Request(source, platform, gpu=False, image=image, **options), tmp_path / "context")
        return tmp_path / "context"

    return write


def test_flare_from_a_zip(engine, hippocampus, package, tmp_path):
    model, archive = hippocampus
    folder = package(archive, "flare")
    inputs = layouts.flare(tmp_path / "inputs", model.cases)
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "outputs")
    check(tmp_path / "outputs", *of_cases(model))


def test_brats_from_a_folder(engine, hippocampus, package, tmp_path):
    model, _ = hippocampus
    folder = package(model.folder, "brats", options={"modalities": ["t1n"]})
    inputs = layouts.brats(tmp_path / "inputs", ["t1n"], model.cases)
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "outputs")
    check(tmp_path / "outputs", *of_cases(model))


def test_grand_challenge_from_a_zip(engine, hippocampus, package, tmp_path):
    model, archive = hippocampus
    folder = package(archive, "grand-challenge", options={"interface": ["organs=output"]})
    name, images = next(iter(model.cases.items()))
    inputs = layouts.grand_challenge(tmp_path / "inputs", ["mri"], images)
    (source,) = (inputs / "images" / "mri").iterdir()
    run_as_the_platform_does(engine, folder, inputs, tmp_path / "outputs")
    result = "images/organs/output.mha"
    check(tmp_path / "outputs", {result: model.references[name]}, {result: source})
