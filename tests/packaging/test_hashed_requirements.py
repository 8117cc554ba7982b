"""uv itself where it is installed, on an index of this test's; what is asked of it, and its failures, by a stand-in."""

import hashlib
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nnunetv2_mamba.files import parse_toml
from nnunetv2_mamba.packaging import hashed_requirements as module
from nnunetv2_mamba.packaging.hashed_requirements import find_uv, hashed_requirements, pins_of

UV = find_uv()  # before the tests' fixture says that there is none
needs_uv = pytest.mark.skipif(UV is None, reason="needs uv (pip install uv)")
STAND_IN = """#!/bin/sh
cp "$3" "{folder}/asked.toml"
echo "$@" > "{folder}/arguments"
{does}
"""


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """Puts a program in uv's place."""
    if sys.platform == "win32":
        pytest.skip("the stand-in is a shell script")

    def put(does: str) -> None:
        program = tmp_path / "uv"
        program.write_text(STAND_IN.format(folder=tmp_path, does=does))
        program.chmod(0o755)
        monkeypatch.setattr(module, "find_uv", lambda: str(program))

    return put


def write_wheel(folder: Path, name: str, version: str, *requirements: str) -> str:
    """An empty package; the file's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requirements]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{information}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path):
    """Serves ``tmp_path``: each folder in it is an index, with a folder for each package."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@needs_uv
def test_every_file_has_its_hash_and_torch_is_its_own_index_s(tmp_path, server, monkeypatch):
    monkeypatch.setattr(module, "find_uv", lambda: UV)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{server}/pypi")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    hashes = {
        "sum": write_wheel(tmp_path / "pypi/sum", "sum", "1.5"),
        "torch": write_wheel(tmp_path / "torch/torch", "torch", "2.4.0+cpu", "sum", "cuda; sys_platform == 'linux'"),
        "cuda": write_wheel(tmp_path / "pypi/cuda", "cuda", "12.0"),
    }
    write_wheel(tmp_path / "pypi/torch", "torch", "2.4.0")
    write_wheel(tmp_path / "pypi/sum", "sum", "1.6")
    pins = ["sum==1.5", "torch==2.4.0"]
    found = hashed_requirements(pins, "3.11", f"{server}/torch", ["torch==2.4.0"])
    assert pins_of(found) == {"cuda": "12.0", "sum": "1.5", "torch": "2.4.0+cpu"}
    for name, digest in hashes.items():
        assert f"--hash=sha256:{digest}" in found.split(f"{name}==")[1].split("\n\n")[0].splitlines()[1]

    with pytest.raises(ValueError, match=r"give --no-hashes to package without: .*no version of sum==9"):
        hashed_requirements(["sum==9"], "3.11")


def test_what_uv_is_asked(tmp_path, uv):
    uv('echo "sum==1.5"')
    assert hashed_requirements(["sum==1.5", "torch==2.4.0"], "3.12", "https://i/x", ["torch==2.4.0"]) == "sum==1.5\n"
    asked = parse_toml((tmp_path / "asked.toml").read_text())
    assert asked["project"]["dependencies"] == ["sum==1.5", "torch==2.4.0"]
    assert asked["tool"]["uv"]["sources"] == {"torch": {"index": "torch"}}
    assert asked["tool"]["uv"]["index"] == [{"name": "torch", "url": "https://i/x", "explicit": True}]
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:2] == ["pip", "compile"]
    assert "--generate-hashes" in arguments
    assert arguments[arguments.index("--python-version") + 1] == "3.12"

    hashed_requirements(["sum==1.5"], "3.12")
    assert "tool" not in parse_toml((tmp_path / "asked.toml").read_text())


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("echo 'error: no route\n  to host' >&2; exit 2", "--no-hashes to package without: error: no route to host$"),
        ("exec sleep 60", "uv found no hashes in 0.5 s; give --no-hashes"),
    ],
)
def test_what_fails_is_one_line(uv, monkeypatch, does, message):
    monkeypatch.setattr(module, "_TIMEOUT", 0.5)
    uv(does)
    with pytest.raises(ValueError, match=message):
        hashed_requirements(["sum==1.5"], "3.11")


def test_without_uv_there_are_none():
    with pytest.raises(ValueError, match="hashes of the requirements need uv: pip install uv; or give --no-hashes"):
        hashed_requirements(["sum==1.5"], "3.11")


def test_pins_are_read_of_either_file():
    text = (
        "a-b==1.0\nc[x,y]==2!1.0+cpu ; python_version < '4' \\\n    --hash=sha256:00\n# d==3\n/opt/e-1.whl --hash=x\n"
    )
    assert pins_of(text) == {"a-b": "1.0", "c": "2!1.0+cpu"}
