"""Triton's C compiler where the system has none."""

import os
import subprocess
from pathlib import Path

import pytest

from nnunetv2_mamba.ops.backends import c_compiler

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell's script")


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    """A system without a C compiler, an empty cache, and a `ziglang` that prints its arguments and where it caches."""
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang/__init__.py").touch()
    program = "import os, sys\nprint(sys.argv[1:], os.environ['ZIG_GLOBAL_CACHE_DIR'])\n"
    (tmp_path / "ziglang/__main__.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "the cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")  # so that it is unset after the test


def test_ziglang_stands_in(no_compiler, tmp_path):
    c_compiler.provide()
    command = [os.environ["CC"], "main.c", "-o", "two words.so"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.startswith("['cc', '-mcpu=baseline', 'main.c', '-o', 'two words.so']")
    assert str(tmp_path / "the cache") in printed


def test_the_script_stays_while_others_run_it(no_compiler, monkeypatch):
    found = []
    for _ in range(2):
        monkeypatch.setenv("CC", "")
        c_compiler.provide()
        found.append(Path(os.environ["CC"]).stat())
    assert os.path.samestat(*found) and found[0].st_mode & 0o777 == 0o700


def test_a_compiler_that_is_there_is_used(no_compiler, tmp_path, monkeypatch):
    (tmp_path / "gcc").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    c_compiler.provide()
    assert not os.environ["CC"]


def test_what_the_user_names_stays(no_compiler, monkeypatch):
    monkeypatch.setenv("CC", "icx")
    c_compiler.provide()
    assert os.environ["CC"] == "icx"
