"""This package as a wheel, and the versions of all that it needs, as they are installed here."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nnunetv2_mamba

_NAME = "nnunetv2-mamba"
# Of an installation, not of a wheel. Compiled kernels are left out too: the image compiles its own.
_LEFT_OUT = {"INSTALLER", "REQUESTED", "RECORD", "WHEEL", "direct_url.json"}
_COMPILED = {".so", ".dylib", ".dll", ".pyc"}
# Not pinned: what torch's CUDA build needs, because it names the versions itself and a build for another device needs
# none of them; and argparse, which is Python's own.
_NOT_PINNED = re.compile(r"(nvidia|cuda|triton|pytorch-triton)(-|$)|argparse$")


def write_wheel(folder: Path) -> Path:
    """Write a pure-Python wheel of the package that this process runs.

    An installed package is put together from its files; a checkout, also one installed with ``pip install -e``, is
    built with pip.

    Raises:
        ValueError: where the package is neither installed nor a checkout.
        subprocess.CalledProcessError: where pip fails.
    """
    root = Path(nnunetv2_mamba.__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return _built(root, folder)
    try:
        return _from_installed(metadata.distribution(_NAME), folder)
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"{root} has neither an installed {_NAME} nor its sources: pip install {_NAME}") from error


def pinned_requirements(wheel: Path) -> list[str]:
    """``NAME==VERSION`` of everything that the wheel needs, directly or not, as installed here.

    Raises:
        ValueError: where something is missing.
    """
    pending = [(Requirement(line), "") for line in _requirements(wheel)]
    versions: dict[str, str] = {}
    seen = set()
    while pending:
        requirement, extra = pending.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not applies or _NOT_PINNED.match(name):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                distribution = _distribution(name)
                versions[name] = distribution.version.split("+")[0]  # +cpu and the like: the index decides
                pending += [(Requirement(line), wanted) for line in distribution.requires or []]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _requirements(wheel: Path) -> list[str]:
    # metadata.distributions would keep the file open, which Windows then neither moves nor removes
    with zipfile.ZipFile(wheel) as archive:
        (information,) = (path for path in zipfile.Path(archive).iterdir() if path.name.endswith(".dist-info"))
        return metadata.PathDistribution(information).requires or []


def _built(root: Path, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, root],
        env={**os.environ, "NNUNETV2_MAMBA_BUILD_KERNEL": "0"},
        check=True,
    )
    (wheel,) = folder.glob("nnunetv2_mamba-*.whl")
    return wheel


def _from_installed(distribution: metadata.Distribution, folder: Path) -> Path:
    information = f"nnunetv2_mamba-{distribution.version}.dist-info"
    wheel = folder / f"nnunetv2_mamba-{distribution.version}-py3-none-any.whl"
    contents = {
        file.as_posix(): file.locate().read_bytes()
        for file in distribution.files or ()
        if _belongs(PurePosixPath(file.as_posix()), information)
    }
    contents[f"{information}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = f"{information}/RECORD"
    rows = [f"{name},{_digest(content)},{len(content)}" for name, content in contents.items()]
    contents[record] = ("\n".join([*rows, f"{record},,"]) + "\n").encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return wheel


def _belongs(path: PurePosixPath, information: str) -> bool:
    if ".." in path.parts or path.suffix in _COMPILED:
        return False
    return path.parts[0] != information or path.name not in _LEFT_OUT


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ValueError(f"{name}, which {_NAME} needs, is not installed here, so its version is not known") from error
