"""The entry point as its own process, with nothing of this environment but the packages."""

import os
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
from conftest import MODALITIES

import nnunetv2_mamba
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging.run import main
from nnunetv2_mamba.packaging.settings import Choices, Settings


@pytest.fixture
def settings(trained_model, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)

    def write(platform: str, **values) -> Path:
        file = tmp_path / "inference.json"
        Settings(platform, model=str(trained_model.folder), choices=Choices(("0", "1")), **values).write(file)
        return file

    return write


def test_brats_in_a_clean_process(settings, trained_model, tmp_path):
    file = settings("brats", channels=MODALITIES)
    inputs = layouts.brats(tmp_path / "inputs", MODALITIES, trained_model.cases)
    (inputs / "case_1" / "case_1-t2w.nii.gz").unlink()
    layouts.truncate(inputs / "case_2" / "case_2-t1n.nii.gz")
    output = tmp_path / "output"
    done = subprocess.run(
        [sys.executable, "-m", "nnunetv2_mamba.packaging.run", file, "infer"]
        + [f"--data_path={inputs}", f"--output_path={output}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1]),
            "nnUNet_extTrainer": DISCOVERY,
            "HOME": str(tmp_path / "nowhere"),
            # where a checkout keeps its compiled kernels
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if "FAILED" in line]
    assert failures[0].startswith("case_1: FAILED: ")
    assert failures[0].endswith("inputs/case_1/case_1-t2w.nii.gz is missing")
    assert "inputs/case_2/case_2-t1n.nii.gz is damaged" in failures[1]
    assert len(failures) == 2
    assert "1 of 3 cases done" in done.stdout
    assert [path.name for path in output.iterdir()] == ["case_0.nii.gz"]
    np.testing.assert_array_equal(
        layouts.voxels(output / "case_0.nii.gz"), layouts.voxels(trained_model.references["case_0"])
    )


def test_one_case_of_flare(settings, trained_model, tmp_path):
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    output = tmp_path / "outputs"
    assert main([str(settings("flare")), "--input", str(inputs), "--output", str(output)]) == 0
    assert layouts.geometry(output / "case_0.nii.gz") == layouts.geometry(inputs / "case_0_0000.nii.gz")


def test_no_input(settings, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "not-there"):
        assert main([str(settings("flare")), "--input", str(tmp_path / folder)]) == 1
        assert f"{tmp_path / folder}" in capsys.readouterr().err


def test_no_model(settings, trained_model, tmp_path, capsys):
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    arguments = [str(settings("flare")), "--input", str(inputs), "--weights", str(tmp_path / "weights")]
    assert main(arguments) == 1
    assert f"{tmp_path / 'weights'}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"platform": "flare", "channels": [], "choices": {"fold": [0]}}'])
def test_settings_that_are_none(tmp_path, capsys, text):
    (tmp_path / "inference.json").write_text(text)
    assert main([str(tmp_path / "inference.json")]) == 1
    assert f"{tmp_path / 'inference.json'} is not a container's settings" in capsys.readouterr().err
