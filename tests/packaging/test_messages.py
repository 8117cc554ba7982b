"""What a container says, as docs/troubleshooting.md shows it."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import layouts
import pytest
import SimpleITK
from test_troubleshooting import documented

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging.checksums import SHA256SUMS, write_checksums
from nnunetv2_mamba.packaging.container import _failure, main
from nnunetv2_mamba.packaging.image_io import check_writable, write_image
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings


@pytest.fixture
def errors(trained_model, tmp_path, monkeypatch, capsys):
    """Run a BraTS container's program on one case and return the lines that it writes to standard error."""
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    inputs = layouts.brats(tmp_path / "inputs", layouts.MODALITIES, {"case_0": trained_model.cases["case_0"]})

    def run(spoil=lambda folder: None, output=tmp_path / "output", options=(), code=1, **settings) -> list[str]:
        spoil(inputs / "case_0")
        arguments = {"channels": layouts.MODALITIES, "model": str(trained_model.folder), **settings}
        InferenceSettings("brats", **arguments).write(tmp_path / "inference.json")
        assert (
            main([str(tmp_path / "inference.json"), "--input", str(inputs), "--output", str(output), *options]) == code
        )
        return capsys.readouterr().err.splitlines()

    return run


@pytest.fixture
def not_writable():
    """A folder that another user owns; outside pytest's, whose parents are for its user only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(10001)
    yield folder
    if root:
        os.seteuid(0)
    folder.rmdir()


def test_a_missing_file(errors):
    (line,) = errors(lambda folder: (folder / "case_0-t2w.nii.gz").unlink())
    assert documented(line)


def test_a_truncated_file(errors):
    (line,) = errors(lambda folder: layouts.truncate(folder / "case_0-t2w.nii.gz"))
    assert documented(line)


def test_weights_that_are_not_there_or_not_those_of_the_package(errors, trained_model, tmp_path):
    write_checksums(trained_model.folder, tmp_path / SHA256SUMS)
    (line,) = errors(options=("--weights", str(tmp_path / "nothing")))
    assert documented(line)
    model = shutil.copytree(trained_model.folder, tmp_path / "model")
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"others")
    (line,) = errors(options=("--weights", str(model)))
    assert documented(line)


def test_too_little_time(errors):
    lines = errors(code=0, choices=Choices(("0",), time_budget=1e-3))
    assert [line for line in lines if documented(line)]


def test_an_image_with_cuda_where_there_is_none(errors, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lines = errors(code=0, gpu=True)
    assert [line for line in lines if documented(line)]


def test_an_output_that_cannot_be_written_is_said_before_the_prediction(errors, tmp_path, monkeypatch):
    monkeypatch.delattr("nnunetv2_mamba.packaging.case_predictor.CasePredictor")
    (tmp_path / "file").touch()
    (line,) = errors(output=tmp_path / "file/output")
    assert line == f"inference: FAILED: nothing can be written to {tmp_path / 'file/output'}: Not a directory"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_folders_that_others_may_not_write(not_writable):
    for folder in (not_writable, not_writable / "new"):
        with pytest.raises(OSError, match=f"^nothing can be written to {folder}: Permission denied$"):
            check_writable(folder)


def test_voxels_that_are_nan(errors):
    def spoil(folder):
        image = SimpleITK.ReadImage(folder / "case_0-t2w.nii.gz")
        image[3, 3, 3] = float("nan")
        SimpleITK.WriteImage(image, folder / "case_0-t2w.nii.gz")

    (line,) = errors(spoil, code=0)
    assert line.startswith("case_0: NOTE: ")
    assert line.endswith("case_0-t2w.nii.gz has 1 voxels that are NaN or infinite; they were taken as 0")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_an_output_that_others_may_not_write(capsys, not_writable):
    with pytest.raises(OSError) as caught:
        write_image(SimpleITK.Image(4, 4, 4, SimpleITK.sitkUInt8), not_writable / "case_0.nii.gz")
    _failure("case_0", caught.value)
    assert documented(capsys.readouterr().err)
