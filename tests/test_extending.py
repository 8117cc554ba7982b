"""A package of somebody else's, made of the files on the page "Write your own"."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import ONE_ITERATION, run
from documentation import BLOCKS, ROOT
from tiny_dataset import DATASET_ID, TinyDataset

FILES = {
    match[1]: block.body
    for block in BLOCKS
    if block.page == "docs/extending.md" and (match := re.fullmatch(r"file: (\S+)", block.comment))
}
PLANS = "nnUNetDeepMambaPlans"
SHORT = "num_epochs=1, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"
# In a spawned process, as nnU-Net's own, which knows of the package by its entry points alone
LOOK_AROUND = """
import multiprocessing, pickle

def look(name):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    trainer = recursive_find_trainer_class_by_name(name)
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    return [trainer.__module__, trainer.__name__, trainer.recipe.num_epochs]

if __name__ == "__main__":
    import sys
    import warnings
    warnings.simplefilter("error")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name in sys.argv[1:]:
            print("found", *pool.apply(look, [name]))
"""


def install(folder: Path, files: dict[str, str]) -> Path:
    """Write a package's files, install it, and return what PYTHONPATH needs."""
    for name, text in {"my_mamba/__init__.py": "", **files}.items():
        path = folder / "my-mamba" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, folder / "site", folder / "my-mamba"]
    subprocess.run(command, check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return install(tmp_path_factory.mktemp("mine"), FILES)


@pytest.fixture
def installed(tiny_dataset: TinyDataset, site: Path, monkeypatch: pytest.MonkeyPatch) -> TinyDataset:
    """The data set in use, and the package in every process that is started."""
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{ROOT}")
    return tiny_dataset


def python(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == code, result.stdout[-5000:]
    return result.stdout


def test_every_file_is_short():
    modules = {name for name in FILES if name.startswith("my_mamba/")}
    assert modules == {f"my_mamba/{name}.py" for name in ("network", "mixer", "scan", "training", "monai_network")}
    assert all(len(FILES[name].splitlines()) < 40 for name in modules)


def test_nnunet_finds_the_trainers_in_a_spawned_process(installed, tmp_path):
    (tmp_path / "look_around.py").write_text(LOOK_AROUND)
    names = ["nnUNetTrainerDeepMambaNoMamba_5epochs", "nnUNetTrainerDeepMambaTversky"]
    output = python(tmp_path / "look_around.py", *names, "nnUNetTrainerDeepMambaTversky_5epochs")
    assert [line for line in output.splitlines() if line.startswith("found")] == [
        "found nnunetv2_mamba.trainers nnUNetTrainerDeepMambaNoMamba_5epochs 5",
        "found my_mamba.training nnUNetTrainerDeepMambaTversky 1000",
        "found nnunetv2_mamba.trainers nnUNetTrainerDeepMambaTversky_5epochs 5",
    ]


@pytest.mark.slow
def test_plan_train_predict(installed, tiny_dataset_files, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    dataset = replace(installed, preprocessed=tmp_path / "preprocessed")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    small = "features_per_stage=[8,16,16]"
    for options in ([], ["--option", "scan=diagonal", "--option", "mixer=mean"]):
        name = ["--plans-name", f"{'own' if options else ''}{PLANS}"]
        command = ["plan", "-d", DATASET_ID, "--network", "DeepMamba", "-c", "3d_fullres", "-np", 1, *name]
        python("-m", "nnunetv2_mamba", *command, "--option", small, *options)
    architecture = dataset.plans(f"own{PLANS}")["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "nnunetv2_mamba.architectures.DeepMamba"
    assert architecture["arch_kwargs"].items() >= {"scan": "diagonal", "mixer": "mean"}.items()
    models = [
        ("nnUNetTrainerDeepMamba", PLANS),
        ("nnUNetTrainerDeepMamba", f"own{PLANS}"),
        ("nnUNetTrainerDeepMambaTversky", PLANS),
        ("nnUNetTrainerAttentionUnet", PLANS),
    ]
    for trainer, plans in models:
        model = ("-tr", trainer, "-p", plans)
        train = ("nnUNetv2_train", DATASET_ID, "3d_fullres", 0, *model, "-device", "cpu")
        run(tmp_path, *train, settings=SHORT, before="" if "DeepMamba" in trainer else ONE_ITERATION)
        out = tmp_path / f"{trainer}-{plans}"
        where = ("-i", dataset.images, "-o", out, "-d", DATASET_ID, "-c", "3d_fullres", "-f", 0, "-device", "cpu")
        run(tmp_path, "nnUNetv2_predict", *where, *model, "-npp", 1, "-nps", 1, settings=SHORT)
        assert len(list(out.glob("*.nii.gz"))) == 6
