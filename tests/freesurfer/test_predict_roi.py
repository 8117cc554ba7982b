"""The command ``predict-roi``: its arguments and exit codes."""

import pytest

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.freesurfer import two_stage

FOLDERS = ("-i", "in", "-o", "out", "--stage1", "one", "--stage2", "two")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--step-size", "0"), "--step-size"),
        (("--box", "96", "0", "96"), "--box"),
        (("--margin", "-1"), "--margin"),
        ((), "one"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict-roi", *FOLDERS, "-device", "cpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunetv2_mamba predict-roi: ") and named in line


def test_failed_cases_are_told_by_the_exit_code(monkeypatch, capsys):
    loaded, failed = [], ["blank"]
    monkeypatch.setattr(two_stage.Stage, "load", lambda folder, options: loaded.append((folder.name, options)))
    monkeypatch.setattr(two_stage, "predict_cases", lambda *arguments, **options: failed)
    command = ["predict-roi", *FOLDERS, "-f", "0", "all", "--step-size", "0.1667", "--disable_tta", "-device", "cpu"]
    assert main(command) == 1
    assert capsys.readouterr().err == "nnunetv2_mamba predict-roi: 1 cases failed: blank\n"
    options = two_stage.Options(["0", "all"], "checkpoint_final.pth", 0.1667, False, "cpu")
    assert loaded == [("one", options), ("two", options)]
    failed.clear()
    assert main(command) == 0
