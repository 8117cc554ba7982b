"""The doctor finds what is wrong, says what to do, and its exit code tells which of the two it was."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nnunetv2_mamba
from nnunetv2_mamba import doctor, ops
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.doctor import compiler, computation, packages, registration
from nnunetv2_mamba.doctor.findings import NOTE, OK, PROBLEM, WARNING, Finding
from nnunetv2_mamba.nnunet import trainer_search
from nnunetv2_mamba.ops import backend_selection
from nnunetv2_mamba.ops.backends import triton_devices

on_posix = pytest.mark.skipif(os.name == "nt", reason="nnU-Net does not compile on Windows")
QUOTE = '"' if os.name == "nt" else "'"  # of its shell


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
        yield Finding("part", "does not work", "repair it")
        raise RuntimeError("and\nthis")

    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    assert doctor.examine() == 1
    output = capsys.readouterr().out
    assert "remedy: repair it" in output
    assert "RuntimeError: and this" in output
    assert "Problems: 2" in output


def test_a_warning_has_a_remedy_and_exit_code_0(monkeypatch, capsys):
    def slow():
        yield Finding("part", "is slow", "wait", WARNING)

    monkeypatch.setattr(doctor, "CHECKS", (slow,))
    assert doctor.examine() == 0
    output = capsys.readouterr().out
    assert output.startswith("WARNING  part") and "remedy: wait" in output


class FakeInstallation:
    """Instead of what is installed: versions by name (None: not installed), and what two packages require."""

    def __init__(self, monkeypatch):
        self.versions = {"nnunetv2-mamba": "0.1.0", "nnunetv2": "2.8.1", "torch": "2.14.1+cpu", "packaging": "26.4"}
        self.requires = {
            "nnunetv2-mamba": ["nnunetv2<3,>=2.8.1", "torch>=2.6", "packaging", "submitit; extra == 'slurm'"],
            "nnunetv2": ["torch!=2.9.*,>=2.1.2", "tqdm"],
        }
        self.editable = True
        monkeypatch.setattr(packages.metadata, "distribution", self._distribution)

    def _distribution(self, name):
        version = self.versions.get(name)
        if version is None:
            raise packages.metadata.PackageNotFoundError(name)
        return SimpleNamespace(
            version=version,
            requires=self.requires.get(name),
            metadata={"Requires-Python": ">=3.10"},
            read_text=lambda file: '{"dir_info": {"editable": true}}' if self.editable else None,
            locate_file=lambda path: Path("/site-packages", path),
        )

    def found(self) -> dict[str, Finding]:
        return {finding.subject: finding for finding in doctor.versions()}


@pytest.fixture
def fake(monkeypatch) -> FakeInstallation:
    return FakeInstallation(monkeypatch)


def test_versions_as_required(fake):
    found = fake.found()
    assert {found[name].verdict for name in ("python", "nnunetv2-mamba", "nnunetv2", "torch")} == {OK}
    assert found["torch"].text.startswith("2.14.1+cpu (required: ") and ">=2.6" in found["torch"].text
    assert found["other requirements"].text == "packaging 26.4"
    assert found["mamba-ssm"].verdict == NOTE and "not needed" in found["mamba-ssm"].text
    assert "submitit" not in found and "tqdm" not in found


@pytest.mark.parametrize(
    ("package", "version", "text"),
    [
        ("nnunetv2", "2.5.1", "2.5.1, but nnunetv2<3,>=2.8.1 is required"),
        ("nnunetv2", "3.0.0", "3.0.0, but nnunetv2<3,>=2.8.1 is required"),
        ("nnunetv2", None, "not installed"),
        ("torch", "2.3.1", "2.3.1, but torch"),
        ("torch", "2.5.1+cu124", "2.5.1+cu124, but torch"),
        ("torch", "2.9.1", "2.9.1, but torch!=2.9.*"),  # nnU-Net's condition
        ("torch", None, "not installed"),
        ("packaging", None, "not installed"),
        ("torch", "unknown", "its metadata are damaged"),
        ("torch", "", "its metadata are damaged"),
    ],
)
def test_versions_that_the_metadata_do_not_allow(fake, package, version, text):
    fake.versions[package] = version
    finding = fake.found()[package]
    assert finding.verdict == PROBLEM and finding.text.startswith(text)
    wanted = f"{QUOTE}nnunetv2<3,>=2.8.1{QUOTE}" if package == "nnunetv2" else package
    assert finding.remedy.startswith("pip install ") and wanted in finding.remedy


@pytest.mark.parametrize("version", ["2.8.1", "2.8.1.dev0+g123", "2.9", "2.10.0rc1", "2.8.1.post1"])
def test_versions_within(fake, version):
    fake.versions["nnunetv2"] = version
    assert (fake.found()["nnunetv2"].verdict == OK) == (version != "2.8.1.dev0+g123")


def test_a_python_that_is_too_old(fake, monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.2")
    assert fake.found()["python"].remedy == "an environment with a Python >=3.10"


def test_sources_without_metadata(fake):
    fake.versions["nnunetv2-mamba"] = None
    found = fake.found()
    assert found["nnunetv2-mamba"].verdict == NOTE and "without an installation" in found["nnunetv2-mamba"].text
    assert found["torch"].verdict == NOTE
    fake.versions["torch"] = None
    assert fake.found()["torch"].remedy == ('pip install "torch"' if os.name == "nt" else "pip install torch")


def test_sources_beside_an_installation(fake):
    fake.editable = False
    finding = fake.found()["nnunetv2-mamba"]
    assert finding.verdict == NOTE and "not the installed 0.1.0 in /site-packages" in finding.text


def test_torch_that_is_absent(monkeypatch):
    """The checks that need it say so, and where the remedy stands."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (finding,) = doctor.guarded("devices", doctor.devices())
    assert finding.verdict == PROBLEM and "cannot be examined" in finding.text and "above" in finding.remedy


@on_posix
@pytest.mark.slow
def test_a_network_compiles():
    (finding,) = doctor.compilation()
    assert finding.verdict == OK and "compiles into one graph" in finding.text


@on_posix
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable."), "apt install gcc g++"),
        (RuntimeError("InvalidCxxCompiler: No working C++ compiler found in cpp.cxx: (None, 'g++')"), "gcc g++"),
        (RuntimeError("main.c:5:10: fatal error: Python.h: No such file or directory\n  gcc main.c"), "-dev"),
        (RuntimeError("Cannot find a working triton installation."), "triton"),
        (AssertionError("source ConstantSource(source_name='_table') already in seen_sources"), "nnUNet_compile=false"),
        (TimeoutError("not done after 180 seconds"), "nnUNet_compile=false"),
    ],
)
def test_a_network_that_does_not_compile_is_a_warning(error, remedy, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(compiler, "_compile_small_network", fail)
    (finding,) = doctor.compilation()
    assert finding.verdict == WARNING and remedy in finding.remedy
    assert str(error).splitlines()[0] in finding.text and "go on uncompiled" in finding.text


@on_posix
def test_a_compiler_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(compiler, "TIME_LIMIT", 0.05)
    monkeypatch.setattr(compiler, "_compile_small_network", lambda *_: time.sleep(60))
    (finding,) = doctor.compilation()
    assert finding.verdict == WARNING and "TimeoutError" in finding.text


@on_posix
def test_a_compiled_network_that_computes_something_else(monkeypatch):
    monkeypatch.setattr(compiler, "_compile_small_network", lambda *_: float("nan"))
    (finding,) = doctor.compilation()
    assert finding.verdict == PROBLEM


@on_posix
def test_compilation_switched_off_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("nnUNet_compile", "f")
    (finding,) = doctor.compilation()
    assert finding.verdict == NOTE and "nnUNet_compile=f" in finding.text


def test_folders_are_information(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "gone"))
    monkeypatch.delenv("nnUNet_results", raising=False)
    findings = list(doctor.folders())
    assert remedies(findings) == []
    assert [finding.verdict for finding in findings] == [OK, NOTE, NOTE]
    assert [finding.text for finding in findings] == [str(tmp_path), f"{tmp_path / 'gone'} (no such folder)", "not set"]


def start_up_in_a_new_process(*options: str, **variables: str) -> str:
    """What the check says where the package is on PYTHONPATH only."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "NNUNETV2_"))}
    environment = inherited | {"PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1])} | variables
    code = "from nnunetv2_mamba import doctor; print(*[f'{f.text} {f.remedy}' for f in doctor.start_up()])"
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_start_up_files_switched_off_by_python():
    output = start_up_in_a_new_process("-S")
    assert "option -S" in output
    assert f"nnUNet_extTrainer={DISCOVERY}" in output or f"$Env:nnUNet_extTrainer = '{DISCOVERY}'" in output


def test_registration_switched_off_by_the_user():
    output = start_up_in_a_new_process(NNUNETV2_MAMBA_AUTOREGISTER="0")
    assert "NNUNETV2_MAMBA_AUTOREGISTER=0 switches" in output


def test_no_start_up_file(monkeypatch, tmp_path):
    monkeypatch.delenv("nnUNet_extTrainer")
    monkeypatch.setattr(registration.site, "getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr(registration.site, "getusersitepackages", lambda: str(tmp_path))
    (finding,) = doctor.start_up()
    assert "pip install --target" in finding.text and str(Path(nnunetv2_mamba.__file__).parents[1]) in finding.text
    monkeypatch.setattr(registration, "PACKAGE", tmp_path / "nnunetv2_mamba")
    (finding,) = doctor.start_up()
    assert "nnunetv2_mamba.pth is missing" in finding.text
    (tmp_path / "nnunetv2_mamba.pth").touch()
    (finding,) = doctor.start_up()
    assert "had no effect" in finding.text


def test_a_package_in_a_zip_file(monkeypatch, tmp_path):
    monkeypatch.setattr(registration._register, "DISCOVERY", str(tmp_path / "a.zip" / "discovery"))
    (finding,) = doctor.start_up()
    assert finding.verdict == PROBLEM and "ZIP" in finding.remedy


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


def test_why_nnunets_search_fails_is_said(monkeypatch):
    """A torchvision built for another PyTorch ends it, before it comes to our trainers."""

    def search(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(trainer_search, "recursive_find_trainer_class_by_name", search)
    (problem,) = doctor.guarded("trainers", doctor.trainers())
    assert problem.verdict == PROBLEM and "operator torchvision::nms does not exist" in problem.text


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
    assert remedies(computation.scan(torch.device("cpu"))) == ["set NNUNETV2_MAMBA_SCAN=torch and report this output"]
    monkeypatch.setattr(ops, "directional_scan", lambda *a, **k: right(*a, **k) * float("nan"))
    assert len(remedies(computation.scan(torch.device("cpu")))) == 1


def test_a_backend_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "no-such-backend")
    findings = list(doctor.devices())
    assert any("no-such-backend" in finding.text and finding.remedy for finding in findings)


def choosing(monkeypatch, choices: dict):
    """Let the choice of a backend be, by operator and dtype, one of ``choices``, else the Triton kernel."""

    def choose(device, dtypes, backend=None, operator="directional_scan"):
        return choices.get((operator, *dtypes), backend_selection.Choice("triton", "the kernel", False))

    monkeypatch.setattr(backend_selection, "choose", choose)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


def test_the_kernels_of_every_operator_and_precision_are_looked_at(monkeypatch):
    wrong = backend_selection.Choice("torch", "the triton kernel cannot be used: its results are wrong", True)
    by_name = backend_selection.Choice("torch", "used when asked for by name", False)
    ssd = {("directional_ssd", dtype): by_name for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    choosing(monkeypatch, {("causal_conv1d", torch.float16): wrong, **ssd})
    findings = list(computation.backends(torch.device("cuda")))
    assert [(finding.subject, finding.text, finding.verdict) for finding in findings] == [
        ("scan on cuda", "triton (float32, float16, bfloat16): the kernel", OK),
        ("Mamba-2 on cuda", "torch (float32, float16, bfloat16): used when asked for by name", OK),
        ("convolution on cuda", "triton (float32, bfloat16): the kernel", OK),
        ("convolution on cuda", f"torch (float16): {wrong.reason}", WARNING),
    ]


def test_one_gpu_of_each_kind_is_looked_at(monkeypatch):
    names = ["NVIDIA A100", "NVIDIA A100", "Tesla T4"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    seen = []
    for check in ("scan", "networks"):
        monkeypatch.setattr(computation, check, lambda device: seen.append(str(device)) or iter(()))
    assert [finding.text for finding in doctor.devices()] == ["NVIDIA A100, NVIDIA A100, Tesla T4"]
    assert list(dict.fromkeys(seen)) == ["cpu", "cuda:0", "cuda:2"]


@on_posix
def test_no_compiler_for_a_gpu_is_said_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delenv("nnUNet_compile", raising=False)
    monkeypatch.setattr(triton_devices, "available", lambda device: "triton does not work here: no gcc; install gcc")
    (finding,) = doctor.compilation()
    assert finding.verdict == WARNING and "cannot work: triton does not work here: no gcc; install gcc" in finding.text


def test_gradients_that_are_not_finite(monkeypatch):
    from nnunetv2_mamba.architectures import SegMamba
    from nnunetv2_mamba.architectures.registry import NETWORKS

    class Broken(SegMamba):
        def forward(self, x):
            return super().forward(x) * float("inf")

    monkeypatch.setitem(NETWORKS, "SegMamba", replace(NETWORKS["SegMamba"], network_class=Broken))
    assert remedies(computation.networks(torch.device("cpu"))) == ["report this output"]
