"""Pinned requirements with the SHA-256 of every file that pip may take for them: what ``--require-hashes`` needs.

uv asks the index, because hashes are of the index's files and not of what is installed here. It also finds the versions
of what PyTorch's build for CUDA needs, as they are for Linux, whatever system this is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_PLATFORM = "x86_64-manylinux_2_28"  # of Docker Hub's Python images; the platforms run nothing else
_TIMEOUT = 600.0  # seconds


def find_uv() -> str | None:
    """The program uv: of this environment or on PATH."""
    return shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def hashed_requirements(
    pins: Sequence[str], python: str, torch_index: str | None = None, torch_pins: Sequence[str] = ()
) -> str:
    """A file of requirements with hashes: the pins, and what they need in turn.

    Args:
        pins: ``NAME==VERSION``.
        python: version of the image's Python, as ``3.11``.
        torch_index: where the files of ``torch_pins`` are taken from, and no others; None for uv's own, which is PyPI
            unless it is told otherwise.
        torch_pins: some of ``pins``.

    Raises:
        ValueError: where uv is not installed, or the index does not answer or has not these versions.
    """
    uv = find_uv()
    if uv is None:
        raise ValueError("hashes of the requirements need uv: pip install uv; or give --no-hashes")
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "pyproject.toml"
        project.write_text(_project(pins, python, torch_index, torch_pins), encoding="utf-8")
        command = [uv, "pip", "compile", project, "--generate-hashes", "--python-version", python]
        command += ["--python-platform", _PLATFORM, "--no-header", "--no-annotate", "--quiet"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"uv found no hashes in {_TIMEOUT:g} s; give --no-hashes to package without") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())[-400:]
        raise ValueError(f"uv found no hashes of the requirements; give --no-hashes to package without: {reason}")
    return done.stdout


def pins_of(requirements: str) -> dict[str, str]:
    """Name and version of all that a file of ``hashed_requirements`` or one of plain pins installs."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", requirements, flags=re.MULTILINE))


def _project(pins: Sequence[str], python: str, torch_index: str | None, torch_pins: Sequence[str]) -> str:
    lines = ["[project]", 'name = "container"', 'version = "0"', f'requires-python = ">={python}"']
    lines.append(f"dependencies = {json.dumps(list(pins))}")  # JSON's strings are TOML's
    if torch_index is not None:
        lines += ["[[tool.uv.index]]", 'name = "torch"', f"url = {json.dumps(torch_index)}", "explicit = true"]
        lines += ["[tool.uv.sources]"]
        lines += [f'{pin.partition("==")[0]} = {{ index = "torch" }}' for pin in torch_pins]
    return "\n".join(lines) + "\n"
