from pathlib import Path

import pytest

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.nnunet_folders import nnunet_folder


def test_a_folder_is_that_of_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    assert nnunet_folder("nnUNet_raw") == Path(tmp_path, "raw")


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(monkeypatch, tmp_path, capsys, value):
    if value is None:
        monkeypatch.delenv("nnUNet_raw", raising=False)
    else:
        monkeypatch.setenv("nnUNet_raw", value)
    assert main(["convert-freesurfer", str(tmp_path), "-d", "7"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunetv2_mamba convert-freesurfer: nnUNet_raw is not set; set it to nnU-Net's folder")
