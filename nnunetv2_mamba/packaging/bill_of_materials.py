"""What a container is made of, as a software bill of materials in JSON of CycloneDX 1.6 (cyclonedx.org).

It lists what ``package`` puts in or pins: the base image, Python packages, this package's wheel and the model's files.
Debian's packages are the base image's; tools that scan an image list them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checksums import sha256


def bill_of_materials(
    image: str, base: str, pins: Mapping[str, str], wheel: Path, model: Mapping[str, str]
) -> dict[str, Any]:
    """The document; it has no date and no serial number, so that the same container has the same one.

    Args:
        image: name of the container's image.
        base: the image that it starts from, ``NAME:TAG`` or ``NAME:TAG@sha256:DIGEST``.
        pins: Python packages and versions.
        wheel: this package's file.
        model: SHA-256 of the model's files by path.
    """
    name, _, digest = base.partition("@sha256:")
    name, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    components = [
        _component("container", name, tag, digest),
        *(_python_package(package, version) for package, version in pins.items()),
        _python_package("nnunetv2-mamba", wheel.name.split("-")[1], sha256(wheel)),
        *(_component("machine-learning-model", file, "", digest) for file, digest in model.items()),
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"bom-ref": "image", **_component("container", image)}},
        "components": components,
        "compositions": [{"aggregate": "incomplete", "assemblies": ["image"]}],  # without Debian's packages
    }


def _python_package(name: str, version: str, digest: str = "") -> dict[str, Any]:
    url = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {"bom-ref": url, **_component("library", name, version, digest), "purl": url}


def _component(kind: str, name: str, version: str = "", digest: str = "") -> dict[str, Any]:
    component: dict[str, Any] = {"type": kind, "name": name}
    if version:
        component["version"] = version
    if digest:
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return component
