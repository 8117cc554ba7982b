"""The wheel: with the compiled CPU kernels and a platform tag where there is a compiler, pure Python where not."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunetv2_mamba.ops.backends.cpu_build import LIBRARY_NAME

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = f"nnunetv2_mamba/ops/backends/{LIBRARY_NAME}"


@pytest.fixture
def environment(tmp_path):
    """The environment of a build: no compiler, an empty cache."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CXX", "NNUNETV2_MAMBA_BUILD_KERNEL")}
    return {**kept, "PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}


def build(environment: dict[str, str], folder: Path, kind: str = "wheel") -> tuple[Path, str]:
    """Run the build backend as pip does; returns the wheel and what the build printed."""
    program = f"import sys, hatchling.build; hatchling.build.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel, done.stdout + done.stderr


def fake_compiler(folder: Path, commands: str) -> str:
    """A script that does what the shell commands say; $out is the file it is to write, if any."""
    script = folder / "c++"
    script.write_text(f'#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done\n{commands}\n')
    script.chmod(0o755)
    return str(script)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_with_a_compiler_the_wheel_holds_the_library(environment, tmp_path):
    environment["CXX"] = fake_compiler(tmp_path, '[ -z "$out" ] || echo compiled > "$out"')
    wheel, _ = build(environment, tmp_path)
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(LIBRARY) == b"compiled\n"
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert f"Tag: py3-none-{wheel.stem.split('-')[-1]}" in archive.read(metadata).decode()


def test_without_a_compiler_the_wheel_is_pure_and_says_why(environment, tmp_path):
    wheel, printed = build(environment, tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in names(wheel)
    assert {"nnunetv2_mamba/ops/csrc/scan.cpp", "nnunetv2_mamba/ops/csrc/simd.h"} <= names(wheel)  # for first use
    assert "no C++ compiler found" in printed


def test_a_compiler_that_fails_does_not_end_the_build(environment, tmp_path):
    environment["CXX"] = fake_compiler(tmp_path, "echo broken compiler >&2; exit 1")
    wheel, printed = build(environment, tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "broken compiler" in printed


def test_the_kernels_can_be_left_out(environment, tmp_path):
    environment["CXX"] = fake_compiler(tmp_path, '[ -z "$out" ] || echo compiled > "$out"')
    environment["NNUNETV2_MAMBA_BUILD_KERNEL"] = "0"
    wheel, _ = build(environment, tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in names(wheel)


def test_an_editable_install_compiles_into_the_cache(environment, tmp_path):
    environment["CXX"] = fake_compiler(tmp_path, '[ -z "$out" ] || echo compiled > "$out"')
    wheel, _ = build(environment, tmp_path, kind="editable")
    assert LIBRARY not in names(wheel)
    (library,) = (tmp_path / "cache").glob(f"*/*{LIBRARY_NAME}")
    assert library.read_text() == "compiled\n"


@pytest.mark.slow
def test_the_library_of_a_wheel_runs_without_a_compiler(environment, tmp_path):
    wheel, _ = build({**environment, "PATH": os.environ["PATH"]}, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    program = (
        "import torch, nnunetv2_mamba\n"
        "from nnunetv2_mamba.ops import selective_scan\n"
        "u, A, B = torch.randn(1, 5, 40), -torch.rand(5, 3), torch.randn(1, 3, 40)\n"
        "results = [selective_scan(u, u.abs(), A, B, B, backend=name) for name in ('cpu', 'reference')]\n"
        "torch.testing.assert_close(*results)\n"
        "print(nnunetv2_mamba.__file__)\n"
    )
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
