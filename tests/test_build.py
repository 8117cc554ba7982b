"""The wheel: with the compiled CPU kernels and a platform tag where there is a compiler, pure Python where not."""

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunetv2_mamba.ops.backends import cpu_build, cpu_library
from nnunetv2_mamba.ops.backends.cpu_build import LIBRARY_NAME

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = f"nnunetv2_mamba/ops/backends/{LIBRARY_NAME}"


@pytest.fixture
def environment(tmp_path):
    """The environment of a build: no compiler, an empty cache."""
    left_out = ("CXX", "NNUNETV2_MAMBA_BUILD_KERNEL", "NNUNETV2_MAMBA_WHEEL", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}


def build(environment: dict[str, str], folder: Path, kind: str = "wheel") -> tuple[Path, str]:
    """Run the build backend as pip does; returns the wheel and what the build printed."""
    hidden = "" if "PYTHONPATH" in environment else "sys.modules['ziglang'] = None; "  # an installed one
    program = f"import sys; {hidden}import hatchling.build; hatchling.build.build_{kind}(sys.argv[1])"
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


def fake_ziglang(folder: Path) -> dict[str, str]:
    """A `ziglang` that writes its arguments to the file it is to make; returns what lets the build find it."""
    (folder / "ziglang").mkdir()
    (folder / "ziglang/__init__.py").touch()
    program = (
        "import pathlib, sys\npathlib.Path(sys.argv[sys.argv.index('-o') + 1]).write_text(' '.join(sys.argv[1:]))\n"
    )
    (folder / "ziglang/__main__.py").write_text(program)
    return {"PYTHONPATH": str(folder)}


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


@pytest.mark.parametrize(
    ("platform", "library", "target"),
    [
        ("manylinux_2_17_aarch64", "selective_scan.so", "aarch64-linux-gnu.2.17"),
        ("macosx_11_0_arm64", "selective_scan.dylib", "aarch64-macos.11.0"),
        ("win_arm64", "selective_scan.dll", "aarch64-windows-gnu"),
    ],
)
def test_a_wheel_for_another_system(environment, tmp_path, platform, library, target):
    environment |= fake_ziglang(tmp_path) | {"NNUNETV2_MAMBA_WHEEL": platform}
    wheel, _ = build(environment, tmp_path)
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    with zipfile.ZipFile(wheel) as archive:
        linked = archive.read(f"nnunetv2_mamba/ops/backends/{library}").decode()
    assert linked.startswith(f"c++ -target {target} -shared")
    assert "baseline_ssd.cpp.o" in linked


@pytest.mark.parametrize(
    ("wheel", "message"), [("win32", "NNUNETV2_MAMBA_WHEEL=win32 is not one of"), ("win_arm64", "pip install ziglang")]
)
def test_a_wheel_for_another_system_has_the_kernels_or_is_none(environment, tmp_path, wheel, message):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        build({**environment, "NNUNETV2_MAMBA_WHEEL": wheel}, tmp_path)
    assert message in failed.value.stderr
    assert not [*tmp_path.glob("*.whl")]


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


def test_an_image_compiles_the_library_where_it_is_looked_for(monkeypatch):
    made = []
    monkeypatch.setattr(cpu_build, "build", lambda library, compiler: made.append(library))
    monkeypatch.setattr(cpu_build, "find_compiler", lambda: None)
    runpy.run_module("nnunetv2_mamba.packaging.compile_kernels", run_name="__main__")
    assert made == [Path(cpu_library.__file__).with_name(LIBRARY_NAME)]


@pytest.mark.slow
def test_the_wheels_are_checked_and_the_same_bits_twice(tmp_path):
    for tool in ("ziglang", "lief", "auditwheel", "twine", "build"):
        pytest.importorskip(tool, reason="pip install -r wheels/requirements.txt")
    command = [sys.executable, ROOT / "wheels/build.py", "--only", "win_arm64", "--only", "manylinux_2_17_aarch64"]
    for folder in ("one", "two"):
        subprocess.run([*command, tmp_path / folder], check=True, timeout=1800)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert len(one) == 3
    assert one == two


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
