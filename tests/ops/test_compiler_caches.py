"""Triton and torch.compile find a folder to write to, whoever runs them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nnunetv2_mamba
from nnunetv2_mamba.ops.backends import compiler_caches
from nnunetv2_mamba.ops.backends.compiler_caches import INDUCTOR, TRITON

STRANGER = 54321  # a user id that no passwd file knows


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """A user with a home and a name, who has set nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "somebody")
    for variable in (TRITON, INDUCTOR, "TRITON_HOME", "LOGNAME"):
        monkeypatch.setenv(variable, "")  # so that it is restored
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_defaults_that_can_be_written_to_stay():
    compiler_caches.provide()
    assert TRITON not in os.environ and INDUCTOR not in os.environ


def test_what_the_user_sets_stays(monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    monkeypatch.setenv(TRITON, "/mine")
    compiler_caches.provide()
    assert os.environ[TRITON] == "/mine" and INDUCTOR not in os.environ


@pytest.mark.skipif(os.name == "nt", reason="its users have names and homes")
def test_without_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    compiler_caches.provide()
    assert os.environ[TRITON] == str(tmp_path / "cache" / "nnunetv2_mamba" / "triton") and INDUCTOR not in os.environ


def test_a_user_without_a_name(monkeypatch, tmp_path):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", unknown)
    compiler_caches.provide()
    assert os.environ[INDUCTOR] == str(tmp_path / "cache" / "nnunetv2_mamba" / "torchinductor")
    assert TRITON not in os.environ


def test_a_temporary_folder_of_that_name_which_is_somebody_elses(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "torchinductor_somebody").write_text("in the way")
    compiler_caches.provide()
    assert os.environ[INDUCTOR].startswith(str(tmp_path / "cache"))


def test_nowhere_to_write_to_is_left_to_the_compilers_to_say(monkeypatch):
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, "/dev/null/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/nowhere")
    compiler_caches.provide()
    assert TRITON not in os.environ and INDUCTOR not in os.environ


@pytest.fixture
def anybodys_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def may_read(path: str | Path) -> bool:
    path = Path(path).resolve()
    return path.is_file() and all(parent.stat().st_mode & 0o005 == 0o005 for parent in path.parents)


# Of this version, the interpreter that others may run too: that of the tests may lie in somebody's home.
OTHERS = [sys.executable, "/usr/bin/python{}.{}".format(*sys.version_info)]
PYTHON = next(filter(may_read, OTHERS), None)
needs_strangers = pytest.mark.skipif(
    PYTHON is None
    or os.name == "nt"
    or os.getuid() != 0
    or not all(map(may_read, (nnunetv2_mamba.__file__, torch.__file__))),
    reason="only root can be somebody else, who has to be able to read Python and the packages",
)


def as_a_stranger(code: str, folder: Path, home: str | None) -> str:
    """What a program prints that a user id without a name runs, with a home that cannot be written to."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")}
    environment |= {"TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    places = (str(Path(module.__file__).parents[1]) for module in (nnunetv2_mamba, torch))
    environment["PYTHONPATH"] = os.pathsep.join(places)
    if home is not None:
        environment["HOME"] = home
    result = subprocess.run(
        [PYTHON, "-c", code], env=environment, cwd="/", user=STRANGER, group=STRANGER, extra_groups=[],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_strangers
@pytest.mark.parametrize("home", [None, pytest.param("/", marks=pytest.mark.slow)])
def test_a_user_id_that_nobody_knows(anybodys_folder, home):
    code = """
import os
from nnunetv2_mamba.ops.backends import compiler_caches
compiler_caches.provide()
from torch._inductor.runtime.cache_dir_utils import cache_dir
for folder in (os.environ["TRITON_CACHE_DIR"], cache_dir()):
    os.makedirs(os.path.join(folder, "entry"))
    print(folder)
"""
    found = as_a_stranger(code, anybodys_folder, home).split()
    private = anybodys_folder / f"nnunetv2_mamba-{STRANGER}"
    assert found == [str(private / "triton"), str(private / "torchinductor")]


@needs_strangers
@pytest.mark.slow
def test_a_user_id_that_nobody_knows_compiles(anybodys_folder):
    code = """
import torch
from nnunetv2_mamba.ops.backends import compiler_caches
compiler_caches.provide()
x = torch.rand(1000)
print((torch.compile(lambda x: (x.exp() + 1).log())(x) - (x.exp() + 1).log()).abs().max().item() < 1e-5)
"""
    assert as_a_stranger(code, anybodys_folder, "/").strip() == "True"
    assert list((anybodys_folder / f"nnunetv2_mamba-{STRANGER}" / "torchinductor").iterdir())
