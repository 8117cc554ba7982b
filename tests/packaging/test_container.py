"""The entry point as its own process, with nothing of this environment but the packages."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import layouts
import pytest
import SimpleITK
import torch

import nnunetv2_mamba
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging.case_predictor import CasePredictor, SegmentedCase
from nnunetv2_mamba.packaging.container import _why_no_gpu, main
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings
from nnunetv2_mamba.packaging.member import Member


@pytest.fixture
def settings(trained_model, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)

    def write(platform: str, **values) -> Path:
        file = tmp_path / "inference.json"
        InferenceSettings(platform, model=str(trained_model.folder), choices=Choices(("0", "1")), **values).write(file)
        return file

    return write


@pytest.mark.slow
def test_brats_in_a_clean_process(settings, trained_model, tmp_path):
    file = settings("brats", channels=layouts.MODALITIES)
    inputs = layouts.brats(tmp_path / "inputs", layouts.MODALITIES, trained_model.cases)
    (inputs / "case_1" / "case_1-t2w.nii.gz").unlink()
    layouts.truncate(inputs / "case_2" / "case_2-t1n.nii.gz")
    output = tmp_path / "output"
    done = subprocess.run(
        [sys.executable, "-m", "nnunetv2_mamba.packaging.container", file, "infer"]
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
    layouts.assert_same_labels(output / "case_0.nii.gz", trained_model.references["case_0"])


def test_one_case_of_flare(settings, trained_model, tmp_path):
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    output = tmp_path / "outputs"
    assert main([str(settings("flare", n_channels=4)), "--input", str(inputs), "--output", str(output)]) == 0
    assert layouts.geometry(output / "case_0.nii.gz") == layouts.geometry(inputs / "case_0_0000.nii.gz")


def test_a_case_that_fails_is_named_and_the_others_go_on(settings, trained_model, tmp_path, capsys, monkeypatch):
    """Channels missing and too many, a file of no case, a network that gives NaN, and a fault that nobody foresaw."""
    cases = dict(zip("abcde", [trained_model.cases["case_0"]] * 5, strict=True))
    inputs = layouts.flare(tmp_path / "inputs", cases)
    (inputs / "a_0003.nii.gz").unlink()
    shutil.copy(inputs / "b_0000.nii.gz", inputs / "b_0004.nii.gz")
    shutil.copy(inputs / "b_0000.nii.gz", inputs / "E_0000.NII.GZ")
    preprocess = Member.prepare
    calls = iter(range(9))

    def fail_twice(self, *arguments, **by_name):
        call = next(calls)
        if call == 1:
            raise FloatingPointError("the network gives NaN alone")
        return preprocess(self, *arguments, **by_name) if call else {}["no such key"]

    monkeypatch.setattr(Member, "prepare", fail_twice)
    arguments = [str(settings("flare", n_channels=4)), "--input", str(inputs), "--output", str(tmp_path / "outputs")]
    assert main(arguments) == 1
    said = capsys.readouterr()
    failures = {line.partition(":")[0]: line for line in said.err.splitlines() if "FAILED" in line}
    assert list(failures) == ["a", "b", "c", "d", "E_0000.NII.GZ"]
    assert f"{inputs / 'a_0003.nii.gz'} is missing" in failures["a"]
    assert f"{inputs / 'b_0004.nii.gz'} is a channel too many" in failures["b"]
    assert "KeyError: 'no such key'" in failures["c"] and f"{inputs / 'c_0000.nii.gz'}" in failures["c"]
    assert failures["d"].startswith("d: FAILED: the network gives NaN alone (")
    assert said.err.count("fail_twice") == 1  # of the one traceback
    assert "1 of 6 cases done" in said.out
    assert [file.name for file in (tmp_path / "outputs").iterdir()] == ["e.nii.gz"]


def test_a_reader_of_other_files_fails_for_each_case(settings, trained_model, tmp_path, capsys):
    model = shutil.copytree(trained_model.folder, tmp_path / "model")
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": "Tiff3DIO"}))
    inputs = layouts.brats(tmp_path / "inputs", layouts.MODALITIES, dict(list(trained_model.cases.items())[:2]))
    arguments = [str(settings("brats", channels=layouts.MODALITIES)), "--input", str(inputs), "--weights", str(model)]
    assert main([*arguments, "--output", str(tmp_path / "outputs")]) == 1
    failures = [line for line in capsys.readouterr().err.splitlines() if "FAILED" in line]
    assert [line.partition(":")[0] for line in failures] == ["case_0", "case_1"]
    assert all("cannot be read" in line and "-t1n.nii.gz" in line for line in failures)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("gpu", [True, False])
def test_the_device_is_said_and_why_there_is_no_gpu(settings, trained_model, tmp_path, capsys, gpu):
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    arguments = [str(settings("flare", n_channels=4, gpu=gpu)), "--input", str(inputs)]
    assert main([*arguments, "--output", str(tmp_path / "outputs")]) == 0
    said = capsys.readouterr()
    assert "on the CPU" in said.out
    assert gpu == ("NO GPU" in said.err)
    if gpu and torch.version.cuda is None:
        assert "not compiled with CUDA" in said.err


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, None),
        ("CUDA error: no kernel image is available\nfor execution on the device\n\nCompile with", "no kernel image"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", None),
        ("CUDA out of memory. Tried to allocate", None),
    ],
)
def test_a_gpu_for_which_torch_has_no_kernels_is_none(monkeypatch, error, reason):
    """It is there, and every case would fail on it; one that somebody else has may be free in a moment."""

    class OnGPU:
        def add(self, _):
            return self

        def item(self):
            if error:
                raise RuntimeError(error)

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *_, device: OnGPU())
    said = _why_no_gpu()
    assert said is None if reason is None else reason in said and "Compile with" not in said and "\n" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_in_the_middle_of_a_file_leaves_nothing(settings, trained_model, tmp_path, monkeypatch):
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    labels = SimpleITK.Image(2, 2, 2, SimpleITK.sitkUInt8)
    monkeypatch.setattr(CasePredictor, "segment", lambda *_, **__: SegmentedCase(labels, "made up"))

    def write_a_half(image, path, **_):
        Path(path).write_bytes(b"half")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SimpleITK, "WriteImage", write_a_half)
    arguments = [str(settings("flare", n_channels=4)), "--input", str(inputs), "--output", str(tmp_path / "outputs")]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 143
    assert not list((tmp_path / "outputs").iterdir())


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


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, "{}", '"text"', '{"platform": "flare", "choices": {"folds": [0]}}']
)
def test_settings_that_are_none(tmp_path, capsys, text):
    (tmp_path / "inference.json").write_text(text)
    assert main([str(tmp_path / "inference.json")]) == 1
    assert f"{tmp_path / 'inference.json'} is not a container's settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "of_choices", "message"),
    [
        ({"platform": "xyz"}, {}, "its platform is none of "),
        ({"platform": ["flare"]}, {}, "platform must be a name"),
        ({"n_channels": 0}, {}, "n_channels must be at least 1, got 0"),
        ({"colour": 1}, {}, "unexpected keyword argument 'colour'"),
        ({}, {"fold": [0]}, "unexpected keyword argument 'fold'"),
        ({}, {"folds": 0}, "TypeError"),
        ({}, {"time_budget": math.nan}, "time_budget must be above 0 seconds, got nan"),
        ({}, {"mirroring": "false"}, "mirroring must be true or false, got 'false'"),
        ({}, {"step_size": "half"}, "TypeError"),
        ({}, {"members": [{"name": "1", "folds": ["0"], "temperature": 0}]}, "temperature must be above 0, got 0"),
    ],
)
def test_settings_that_were_changed_wrongly(tmp_path, capsys, changes, of_choices, message):
    file = tmp_path / "inference.json"
    InferenceSettings("flare").write(file)
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, **changes, "choices": {**written["choices"], **of_choices}}))
    assert main([str(file)]) == 1
    said = capsys.readouterr().err
    assert f"{file} is not a container's settings" in said and message in said
