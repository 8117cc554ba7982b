"""Versions of Python and of the packages, against what the package's own metadata allow."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from .findings import NOTE, Finding

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet  # elsewhere imported where used: it may be what is missing

OURS = "nnunetv2-mamba"
PACKAGE = Path(__file__).parents[1]
NEEDED = ("nnunetv2", "torch")  # a line for each; of the others only what is wrong
OPTIONAL = {
    "triton": "only an NVIDIA GPU needs it, and torch's CUDA builds bring it along",
    "mamba-ssm": "not needed",
    "causal-conv1d": "not needed",
}


def versions() -> Iterator[Finding]:
    """Look at Python, this package, what it requires, and what it can use."""
    from packaging.specifiers import SpecifierSet

    ours = _distribution(OURS)
    yield _python(ours)
    yield _own_version(ours)
    requirements = _requirements(ours)
    for name in NEEDED:
        yield _package(name, requirements.pop(name, SpecifierSet()))
    others = {name: _package(name, wanted) for name, wanted in requirements.items()}
    yield from (finding for finding in others.values() if finding.remedy is not None)
    right = [f"{name} {_version(name)}" for name, finding in others.items() if finding.remedy is None]
    if right:
        yield Finding("other requirements", ", ".join(right))
    for name, need in OPTIONAL.items():
        version = _version(name)
        yield Finding(name, f"not installed; {need}" if version is None else version, verdict=NOTE)


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _version(name: str) -> str | None:
    """Return the version of an installed package, empty where its metadata are damaged; None if it is not installed."""
    found = _distribution(name)
    try:
        return None if found is None else found.version or ""
    except KeyError:  # what Python 3.14 raises for metadata without a version
        return ""


def _requirements(ours: metadata.Distribution | None) -> dict[str, SpecifierSet]:
    """Read what is required of which package, by nnU-Net's metadata too where it is a package that we require."""
    wanted = _of(ours)
    for name, specifiers in _of(_distribution("nnunetv2")).items():
        if name in wanted:
            wanted[name] &= specifiers
    return wanted


def _of(distribution: metadata.Distribution | None) -> dict[str, SpecifierSet]:
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in (distribution.requires if distribution else None) or ()]
    return {
        requirement.name: requirement.specifier
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }


def _python(ours: metadata.Distribution | None) -> Finding:
    from packaging.specifiers import SpecifierSet

    wanted = SpecifierSet((ours.metadata["Requires-Python"] if ours else None) or "")
    text = f"{platform.python_version()}, {platform.platform()}, {sys.executable}"
    if wanted.contains(platform.python_version(), prereleases=True):
        return Finding("python", text)
    return Finding("python", text, f"an environment with a Python {wanted}")


def _own_version(ours: metadata.Distribution | None) -> Finding:
    if ours is None:
        text = f"{PACKAGE}, without an installation: which versions it requires is not known here, so none is checked"
        return Finding(OURS, text, verdict=NOTE)
    if _is_editable(ours) or Path(str(ours.locate_file(PACKAGE.name))).resolve() == PACKAGE.resolve():
        return Finding(OURS, f"{ours.version}, {PACKAGE}")
    text = f"these are the sources in {PACKAGE}, not the installed {ours.version} in {ours.locate_file('')}"
    return Finding(OURS, text, verdict=NOTE)


def _is_editable(distribution: metadata.Distribution) -> bool:
    """Tell whether it was installed by ``pip install -e``, after which it lies elsewhere than its metadata."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def _package(name: str, wanted: SpecifierSet) -> Finding:
    """Tell whether a package fits what is required of it; only its version where nothing is."""
    from packaging.version import InvalidVersion, Version

    version, install = _version(name), f"pip install {_quoted(f'{name}{wanted}')}"
    if version is None:
        return Finding(name, "not installed", install)
    try:
        fits = wanted.contains(Version(version), prereleases=True)
    except InvalidVersion:
        text = f"its metadata are damaged (version {version!r})"
        return Finding(name, text, f"pip install --force-reinstall --no-deps {_quoted(f'{name}{wanted}')}")
    if not fits:
        return Finding(name, f"{version}, but {name}{wanted} is required", install)
    return Finding(name, f"{version} (required: {wanted})") if wanted else Finding(name, version, verdict=NOTE)


def _quoted(requirement: str) -> str:
    """Quote a requirement for a shell, in which ``>`` would write a file."""
    return f'"{requirement}"' if os.name == "nt" else shlex.quote(requirement)
