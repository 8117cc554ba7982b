"""The archive for a machine with torch, triton and numpy, and the suite started from it in an empty folder."""

import ast
import json
import os
import re
import subprocess
import tarfile
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pack_gpu_suite
import pytest
from gpu_sections import device_tests

TESTS = Path(__file__).parents[1]
ESTIMATES = {"SegMamba": {"training": 2**30, "prediction": 2**29}}
THERE = ("torch", "triton", "numpy")  # with what these require


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    size = pack_gpu_suite.pack(folder / "suite.tar.gz", ESTIMATES)
    assert size == (folder / "suite.tar.gz").stat().st_size
    with tarfile.open(folder / "suite.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "suite"


def test_what_is_packed(unpacked):
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert files >= {
        *("gpu_suite.py", "gpu_sections/runner.py", "networks.py", "nnunetv2_mamba/ops/backends/triton_kernels.py"),
        *("nnunetv2_mamba/ops/csrc/scan.cpp", "tests/gpu/conftest.py", "tests/ops/scan_cases.py", "pyproject.toml"),
        *("vendored/dynamic_network_architectures/architectures/unet.py", "vendored/_pytest/config/__init__.py"),
        *("vendored/nnunetv2/training/loss/compound_losses.py", "vendored/pluggy/__init__.py", "LICENSE"),
    }
    assert not [name for name in files if name.endswith((".pyc", *pack_gpu_suite.COMPILED))]
    licensed = {name.split("/")[2] for name in files if name.startswith("vendored/licenses/")}
    assert {name.lower() for name in licensed} == {*pack_gpu_suite.VENDORED, "nnunetv2"} - {
        "dynamic-network-architectures"
    } | {distribution("dynamic-network-architectures").name}
    assert json.loads((unpacked / "estimates.json").read_text()) == ESTIMATES
    packed = json.loads((unpacked / "packed.json").read_text())
    assert re.fullmatch("[0-9a-f]{12}", packed["commit"])
    assert packed["vendored"]["pytest"] == distribution("pytest").version


def test_what_the_packed_tests_import_of_each_other_is_packed(unpacked):
    ours = {path.stem for folder in (TESTS, TESTS / "ops") for path in folder.glob("*.py")}
    packed = [path for path in (unpacked / "tests").rglob("*.py") if path.name not in device_tests.NEED_NNUNET]
    imported = {
        node.module for path in packed for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.ImportFrom
    }
    assert "compiled_steps" in imported & ours <= {path.stem for path in packed}


def test_of_nnunet_there_are_the_losses_alone(unpacked):
    folder = unpacked / "vendored" / "nnunetv2"
    assert not (folder / "training" / "nnUNetTrainer").exists()
    assert sum(path.stat().st_size for path in folder.rglob("*.py")) < 2**17


@pytest.fixture
def without_nnunet(monkeypatch):
    monkeypatch.setattr(pack_gpu_suite, "copy_nnunet", lambda folder: None)


def test_compiled_modules_are_not_packed(monkeypatch, tmp_path, without_nnunet):
    monkeypatch.setattr(pack_gpu_suite, "VENDORED", ("markupsafe",))
    with pytest.raises(ValueError, match=r"_speedups.*fits one version of Python only"):
        pack_gpu_suite.pack(tmp_path / "suite.tar.gz", {})
    assert not list(tmp_path.iterdir())


def test_a_large_archive_is_refused(monkeypatch, tmp_path, without_nnunet):
    monkeypatch.setattr(pack_gpu_suite, "VENDORED", ())
    monkeypatch.setattr(pack_gpu_suite, "LARGEST_MIB", 0.1)
    with pytest.raises(ValueError, match=r"MiB, more than 0\.1"):
        pack_gpu_suite.pack(tmp_path / "suite.tar.gz", {})
    assert not list(tmp_path.iterdir())


def test_it_is_packed_from_a_checkout_only(monkeypatch, tmp_path):
    monkeypatch.setattr(pack_gpu_suite, "CHECKOUT", tmp_path)
    with pytest.raises(ValueError, match="must be a git checkout"):
        pack_gpu_suite.pack(tmp_path / "suite.tar.gz", {})


def required(names: tuple[str, ...]) -> set[str]:
    """The installed distributions that these require, themselves included."""
    found, waiting = set(), list(names)
    while waiting:
        name = re.match(r"[A-Za-z0-9._-]+", waiting.pop())[0].lower().replace("_", "-")
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or ()
        except PackageNotFoundError:  # for another system, or not needed here
            continue
        found.add(name)
        waiting += [requirement for requirement in requirements if "extra ==" not in requirement]
    return found


@pytest.fixture
def bare_python(tmp_path) -> Path:
    """A Python that has torch, triton, numpy and what they require, linked from this environment."""
    venv.create(tmp_path / "bare", symlinks=True)
    (site,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    for name in required(THERE):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(installed.locate_file(top))
            if source.exists() and source.suffix != ".pth" and not (site / top).exists():
                (site / top).symlink_to(source)
    return tmp_path / "bare" / "bin" / "python"


@pytest.mark.slow
def test_dry_run_in_a_bare_environment(unpacked, bare_python, tmp_path):
    """Every section, from the archive alone; takes some minutes on two cores."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "NNUNETV2_MAMBA_SCAN")}
    missing = [bare_python, "-c", "import nnunetv2"]
    assert subprocess.run(missing, env=environment, capture_output=True, cwd=tmp_path).returncode
    command = [bare_python, "gpu_suite.py", "--device", "cpu", "--out", tmp_path / "out", "--processes", "1"]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True)
    report = json.loads((tmp_path / "out" / "gpu_suite.json").read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = {section["section"]: section["status"] for section in report["sections"]}
    only_cuda = {"rival", "device_tests"}
    assert {name for name, status in statuses.items() if status == "needs CUDA"} == only_cuda
    assert {status for name, status in statuses.items() if name not in only_cuda} == {"passed"}
    assert all(section["needs CUDA"] for section in report["sections"])
    assert "dry run" in (tmp_path / "out" / "gpu_suite.md").read_text()
    printed = subprocess.run(
        [bare_python, "gpu_suite.py", "--summary", tmp_path / "out" / "gpu_suite.json"],
        cwd=unpacked, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.strip() == (tmp_path / "out" / "gpu_suite.md").read_text().strip()
