"""The doctor finds what is wrong, says what to do, and its exit code tells which of the two it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nnunetv2_mamba
from nnunetv2_mamba import doctor, ops
from nnunetv2_mamba._register import DISCOVERY


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.delenv("NNUNETV2_MAMBA_AUTOREGISTER", raising=False)
    torch.set_num_threads(1)


def remedies(findings) -> list[str]:
    return [finding.remedy for finding in findings if finding.remedy is not None]


def test_a_working_installation(capsys):
    assert doctor.examine() == 0
    output = capsys.readouterr().out
    subjects = {line[9:].split("  ")[0] for line in output.splitlines()}
    assert {"trainers", "scan on cpu", "SegMamba on cpu", "MedSegMamba on cpu"} <= subjects
    assert output.endswith("Everything works.\n")
    assert "PROBLEM" not in output


def test_a_problem_gives_exit_code_1(monkeypatch, capsys):
    def broken():
        yield doctor.Finding("part", "does not work", "repair it")
        raise RuntimeError("and\nthis")

    for check in ("folders", "trainers", "devices"):
        monkeypatch.setattr(doctor, check, lambda: iter(()))
    monkeypatch.setattr(doctor, "versions", broken)
    assert doctor.examine() == 1
    output = capsys.readouterr().out
    assert "remedy: repair it" in output
    assert "RuntimeError: and this" in output
    assert "Problems: 2" in output


def test_folders_are_information(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "gone"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    findings = list(doctor.folders())
    assert remedies(findings) == []
    assert [finding.text for finding in findings] == [str(tmp_path), f"{tmp_path / 'gone'} (no such folder)", "not set"]


def start_up_in_a_new_process(*options: str, **variables: str) -> str:
    """What the check says where the package is on PYTHONPATH only."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "NNUNETV2_"))}
    environment = inherited | {"PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1])} | variables
    code = "from nnunetv2_mamba import doctor; print(*[(f.text, f.remedy) for f in doctor.start_up()])"
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_start_up_files_switched_off_by_python():
    output = start_up_in_a_new_process("-S")
    assert "option -S" in output
    assert f"nnUNet_extTrainer={DISCOVERY}" in output or "$Env:" in output


def test_registration_switched_off_by_the_user():
    output = start_up_in_a_new_process(NNUNETV2_MAMBA_AUTOREGISTER="0")
    assert "NNUNETV2_MAMBA_AUTOREGISTER=0 switches" in output


def test_no_start_up_file(monkeypatch, tmp_path):
    monkeypatch.delenv("nnUNet_extTrainer")
    monkeypatch.setattr(doctor.site, "getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr(doctor.site, "getusersitepackages", lambda: str(tmp_path))
    (finding,) = doctor.start_up()
    assert "PYTHONPATH" in finding.text
    (tmp_path / "nnunetv2_mamba.pth").touch()
    (finding,) = doctor.start_up()
    assert "had no effect" in finding.text


@pytest.mark.skipif(os.name == "nt", reason="the line is for a POSIX shell")
def test_the_export_line_is_the_remedy(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", "/folder with space/of the user's")
    (finding,) = doctor.start_up()
    script = f'{finding.remedy}; printf %s "$nnUNet_extTrainer"'
    value = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert value == os.pathsep.join(["/folder with space/of the user's", DISCOVERY])
    monkeypatch.setenv("nnUNet_extTrainer", value)
    assert remedies(doctor.start_up()) == []


def test_trainers_that_nnunet_does_not_find(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer")
    (finding,) = doctor.trainers()
    assert "does not find nnUNetTrainer" in finding.text
    assert finding.remedy is not None


def test_trainers_hidden_by_others_of_the_same_name(monkeypatch, tmp_path):
    source = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
    (tmp_path / "mine.py").write_text(source + "class nnUNetTrainerSegMamba(nnUNetTrainer): pass\n")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path), DISCOVERY]))
    (problem,) = doctor.trainers()
    assert "another nnUNetTrainerSegMamba, in the module mine" in problem.text
    assert problem.remedy == "rename or remove that class"


def test_a_scan_that_computes_something_else(monkeypatch):
    right = ops.directional_scan
    monkeypatch.setattr(
        ops,
        "directional_scan",
        lambda *a, backend, **k: right(*a, backend="reference", **k) * (1 + (backend != "reference")),
    )
    assert remedies(doctor.scan(torch.device("cpu"))) == ["set NNUNETV2_MAMBA_SCAN=torch and report this output"]
    monkeypatch.setattr(ops, "directional_scan", lambda *a, **k: right(*a, **k) * float("nan"))
    assert len(remedies(doctor.scan(torch.device("cpu")))) == 1


def test_a_backend_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "no-such-backend")
    findings = list(doctor.devices())
    assert any("no-such-backend" in finding.text and finding.remedy for finding in findings)


def test_gradients_that_are_not_finite(monkeypatch):
    from nnunetv2_mamba import architectures

    class Broken(architectures.SegMamba):
        def forward(self, x):
            return super().forward(x) * float("inf")

    monkeypatch.setattr(architectures, "SegMamba", Broken)
    assert remedies(doctor.networks(torch.device("cpu"))) == ["report this output"]
