"""Registration with nnU-Net through the start-up file, in fresh environments made from the built wheel."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOW = "import os; print(os.environ.get('nnUNet_extTrainer', ''))"


class Environment:
    """A virtual environment in which the package was installed from a wheel."""

    def __init__(self, folder: Path, wheel: Path):
        venv.create(folder)
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.site = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
        options = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(self.python), *options], check=True)

    def run(self, code: str, *options: str, **variables: str) -> subprocess.CompletedProcess:
        """Run code in another working directory, without what the running tests have set."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "NNUNETV2_", "PYTHON"))}
        command = [self.python, *options, "-c", code]
        return subprocess.run(
            command, env=inherited | variables, cwd=self.python.parent, capture_output=True, text=True, check=True
        )

    def see_packages_of_the_tests(self) -> None:
        """Make torch and nnU-Net importable. A path line, unlike a site folder, brings no start-up files along."""
        import nnunetv2
        import torch

        homes = {str(Path(module.__file__).parents[1]) for module in (torch, nnunetv2)}
        (self.site / "packages_of_the_tests.pth").write_text("\n".join(homes))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what the wheel is built from, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("sources")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    compiled = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "nnunetv2_mamba", copy / "nnunetv2_mamba", ignore=compiled)
    return copy


def build(sources: Path, kind: str) -> Path:
    """The wheel of a regular or an editable install, as pip asks the build backend for it; without CPU kernels."""
    code = f"import hatchling.build; print(hatchling.build.build_{kind}('{kind}'))"
    environment = os.environ | {"NNUNETV2_MAMBA_BUILD_KERNEL": "0"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True, check=True)
    return sources / kind / result.stdout.split()[-1]


@pytest.fixture(scope="module")
def regular(sources, tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("regular"), build(sources, "wheel"))


@pytest.fixture(scope="module")
def editable(sources, tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("editable"), build(sources, "editable"))


@pytest.fixture(params=["regular", "editable"])
def installed(request) -> Environment:
    return request.getfixturevalue(request.param)


def test_the_folder_is_registered(installed):
    folder = Path(installed.run(SHOW).stdout.strip())
    assert folder.parts[-2:] == ("nnunetv2_mamba", "discovery")
    assert [path.name for path in folder.glob("*.py")] == ["nnunetv2_mamba_trainers.py"]


def test_entries_of_the_user_stay_first(installed):
    ours = installed.run(SHOW).stdout.strip()
    theirs = os.pathsep.join(["/mine", "/ours"])
    assert installed.run(SHOW, nnUNet_extTrainer=theirs).stdout.strip() == os.pathsep.join([theirs, ours])


def test_nothing_is_registered_twice(installed):
    ours = installed.run(SHOW).stdout.strip()
    for value in (ours, ours + os.sep, os.pathsep.join([ours, "/mine"])):
        assert installed.run(SHOW, nnUNet_extTrainer=value).stdout.strip() == value


def test_it_can_be_switched_off(installed):
    assert installed.run(SHOW, NNUNETV2_MAMBA_AUTOREGISTER="0").stdout.strip() == ""
    assert installed.run(SHOW, NNUNETV2_MAMBA_AUTOREGISTER="0", nnUNet_extTrainer="/mine").stdout.strip() == "/mine"


def test_nnunet_finds_the_trainers_in_a_spawned_worker(regular):
    regular.see_packages_of_the_tests()
    (regular.site / "spawning.py").write_text(
        """
import multiprocessing, pickle

def find(name):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    first, second = recursive_find_trainer_class_by_name(name), recursive_find_trainer_class_by_name(name)
    assert first is second is pickle.loads(pickle.dumps(first))
    return first.__module__

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name in ("nnUNetTrainerMedSegMamba", "nnUNetTrainerSegMambaNoMamba_5epochs"):
            print("module", pool.apply(find, [name]))
"""
    )
    output = regular.run("import runpy; runpy.run_module('spawning', run_name='__main__', alter_sys=True)").stdout
    modules = [line.split()[1] for line in output.splitlines() if line.startswith("module ")]
    assert modules == ["nnunetv2_mamba.trainers", "nnunetv2_mamba.trainers"]


def remove_package(package: Path) -> None:
    shutil.rmtree(package)


def remove_module(package: Path) -> None:
    (package / "_register.py").unlink()


def break_syntax(package: Path) -> None:
    (package / "_register.py").write_text("def broken(:\n")


def break_encoding(package: Path) -> None:
    (package / "__init__.py").write_bytes(b"\xff\x00")


def break_reading(package: Path) -> None:
    (package / "__init__.py").unlink()
    (package / "__init__.py").mkdir()


@pytest.mark.parametrize("damage", [remove_package, remove_module, break_syntax, break_encoding, break_reading])
def test_a_broken_install_is_silent_at_start_up(regular, damage, tmp_path):
    package, intact = regular.site / "nnunetv2_mamba", tmp_path / "intact"
    shutil.copytree(package, intact)
    damage(package)
    result = regular.run("print('started')")
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(intact, package)
    assert (result.stdout.strip(), result.stderr) == ("started", "")
