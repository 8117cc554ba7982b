"""Writes a Docker build context: everything that ``docker build`` needs for a challenge's container."""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import folder_made_whole, remove_left_behind, write_json
from .bill_of_materials import bill_of_materials
from .checksums import SHA256SUMS, sha256, write_checksums
from .ensemble_checks import check_alike
from .hashed_requirements import hashed_requirements, pins_of
from .inference_copy import ModelDescription, copy_for_inference
from .inference_settings import Choices, InferenceSettings, MemberChoices
from .model_card import container_card, model_facts, write_card
from .model_content import calibrated_temperature, read_model
from .model_source import open_model
from .platforms import PLATFORMS, Platform
from .trial import try_model
from .wheel import pinned_requirements, write_wheel

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_BUILD = "/opt/build"  # in the image, of what is installed
_FROM_INDEX = re.compile("torch(vision|audio)?==")  # built for one CUDA version, so all from one index
# What the user gives goes into a Dockerfile, YAML and scripts. Images are named as Docker's reference says.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"(?:[a-z0-9.-]+:\d+/)?{_COMPONENT}(?:/{_COMPONENT})*(?::\w[\w.-]{{0,127}})?", re.ASCII)
_BASE = re.compile(rf"{_IMAGE.pattern}(?:@sha256:[0-9a-f]{{64}})?", re.ASCII)
_URL = re.compile(r"[a-z]+://[A-Za-z0-9_.~:/@%+=-]+")
_REMEDY = "give -o a folder that is new or empty"
_FINISHED = ".package-finished"  # in an output that was there, until its contents have moved up


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        source: the model's folder or ZIP.
        platform: the name of one of ``platforms.PLATFORMS``.
        folds: which are packaged, as ``["0", "all"]``; None for all there are.
        options: the platform's own (``Platform.options``), by name.
        gpu: whether the image has CUDA.
        torch_index: pip's index for PyTorch; None for PyTorch's CPU builds or, with a GPU, PyPI's.
        image: the name of the Docker image.
        base: the image that it starts from, which has this Python's version and a C++ compiler, as
            ``NAME:TAG@sha256:DIGEST``; None for Docker Hub's ``python``, by its tag.
        hashes: whether requirements have hashes, for which an index is asked; else versions only.
        choices: how the model is run; the folds and members in it are replaced by those found.
        others: further models, whose predictions are averaged with the first one's.
        calibrated: whether each has its temperature, as of ``calibrated_temperature``.
    """

    source: Path
    platform: str
    folds: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    gpu: bool = True
    torch_index: str | None = None
    image: str = "nnunetv2-mamba"
    base: str | None = None
    hashes: bool = False
    choices: Choices = field(default_factory=Choices)
    others: Sequence[Path] = ()
    calibrated: bool = False


def write_context(request: Request, output: Path) -> ModelDescription:
    """Write the build context into a folder, which appears complete or not at all.

    Returns:
        What the model is, the first of several.

    Raises:
        FileExistsError: where ``output`` has something in it.
        OSError, ValueError, pickle.UnpicklingError: for a model or options that do not make a container.
    """
    with _made_or_filled(output) as context:
        model = _write(request, context)
        let_everybody_read(context)
    return model


@contextmanager
def _made_or_filled(output: Path) -> Iterator[Path]:
    """Give a folder to fill that becomes ``output``, or whose contents move there where that is an empty folder.

    An empty folder stays the one that it is: it may be a mount point, a link to one, or the current folder.
    """
    if output.is_symlink() and not output.exists():
        raise FileExistsError(f"{output} is a link to nothing; {_REMEDY}")
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        with folder_made_whole(output) as folder:
            yield folder
        return
    finished = output / _FINISHED
    if output.is_dir():
        remove_left_behind(finished)
    if not output.is_dir() or any(output.iterdir()):
        raise FileExistsError(f"{output} exists and is not an empty folder; {_REMEDY}")
    with folder_made_whole(finished) as folder:
        yield folder
    for path in sorted(finished.iterdir()):
        path.rename(output / path.name)
    finished.rmdir()


def _write(request: Request, context: Path) -> ModelDescription:
    _check_names(request)
    models, members = _copy_models(request, context / "model")
    model = models[0]
    platform = PLATFORMS[request.platform]
    settings = _settings(request, platform, model, members)
    settings.write(context / "inference.json")
    _try_models(request, context / "model", settings)
    checksums = write_checksums(context / "model", context / SHA256SUMS)
    facts = [
        model_facts(open_model(source), each, context / "model" / member.name, _below(checksums, member.name))
        for source, each, member in zip((request.source, *request.others), models, members, strict=True)
    ]
    if not platform.model_in_image:
        _to_tarball(context / "model", context / "model.tar.gz")
    wheel = write_wheel(context)
    python = _python_image(*sys.version_info[:2], sys.version_info.releaselevel)
    base = request.base or f"python:{python}-bookworm"
    index = request.torch_index or (None if request.gpu else _CPU_INDEX)
    pins = pinned_requirements(wheel)
    torch_pins = [pin for pin in pins if _FROM_INDEX.match(pin)]
    if request.hashes:
        requirements = hashed_requirements(pins, python.removesuffix("-rc"), index, torch_pins)
        requirements += f"{_BUILD}/{wheel.name} --hash=sha256:{sha256(wheel)}\n"
    else:
        requirements = "".join(f"{pin}\n" for pin in pins)
    (context / "requirements.txt").write_text(requirements, encoding="utf-8", newline="\n")
    installed = pins_of(requirements)
    write_json(context / "sbom.cdx.json", bill_of_materials(request.image, base, installed, wheel, checksums))
    software = {"python": python, **{name: installed[name] for name in ("torch", "nnunetv2")}, "wheel": wheel.name}
    write_card(container_card(request.image, settings, request.hashes, software, facts), context)
    values = {
        "request": request,
        "platform": platform,
        "options": platform.with_defaults(request.options),
        "settings": settings,
        "model": model,
        "others": models[1:],
        "build": _BUILD,
        "wheel": wheel.name,
        "torch_index": index,
        "torch_pins": torch_pins,
        "base": base,
    }
    _write_templates(platform, values, context)
    return model


def _copy_models(request: Request, folder: Path) -> tuple[list[ModelDescription], tuple[MemberChoices, ...]]:
    """Copy the model to the folder, several to folders ``1``, ``2``, ... in it."""
    sources = [request.source, *request.others]
    names = [str(number) for number, _ in enumerate(sources, 1)] if request.others else [""]
    models, members = [], []
    for source, name in zip(sources, names, strict=True):
        opened = open_model(source)
        model = copy_for_inference(opened, folder / name, request.folds, request.choices.checkpoint)
        models.append(model)
        temperature = (
            calibrated_temperature(opened, model.folds, request.choices.checkpoint) if request.calibrated else 1.0
        )
        members.append(MemberChoices(name, model.folds, temperature))
    return models, tuple(members)


def _below(checksums: Mapping[str, str], folder: str) -> dict[str, str]:
    """Those of the files in a folder, by their paths in it; all where it has no name."""
    start = f"{folder}/" if folder else ""
    return {file.removeprefix(start): digest for file, digest in checksums.items() if file.startswith(start)}


def _try_models(request: Request, folder: Path, settings: InferenceSettings) -> None:
    """Try each model by itself, and check that several can be averaged."""
    members, checkpoint = settings.choices.models, settings.choices.checkpoint
    sources = [request.source, *request.others]
    for member, source in zip(members, sources, strict=True):
        alone = replace(settings.choices, folds=member.folds, members=())
        try_model(folder / member.name, replace(settings, choices=alone), source)
    if request.others:
        check_alike(
            [
                read_model(folder / member.name, member.folds, checkpoint, source)
                for member, source in zip(members, sources, strict=True)
            ]
        )


def _write_templates(platform: Platform, values: dict[str, Any], context: Path) -> None:
    """Write a file of every template of the platform, and of the common ones that it has not."""
    environment = Environment(
        loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    folders = (platform.name, "common")
    paths = [PurePosixPath(template) for template in environment.list_templates(extensions=["jinja"])]
    for name in sorted({path.name for path in paths if path.parent.name in folders}):
        template = environment.select_template([f"{folder}/{name}" for folder in folders])
        file = context / name.removesuffix(".jinja")
        file.write_text(template.render(values), encoding="utf-8", newline="\n")  # they are for Linux
        if file.suffix == ".sh":
            file.chmod(0o755)


def _python_image(major: int, minor: int, level: str) -> str:
    """Tag of Docker Hub's Python images, without the patch release, of which there is not an image for each.

    A minor version that is not released yet has an image of its last alpha, beta or candidate.
    """
    return f"{major}.{minor}" if level == "final" else f"{major}.{minor}-rc"


def _check_names(request: Request) -> None:
    if not _IMAGE.fullmatch(request.image):
        raise ValueError(
            f"--image must be a name that Docker takes, such as name, user/name:tag, got {request.image!r}"
        )
    if request.base is not None and not _BASE.fullmatch(request.base):
        raise ValueError(f"--base must be an image, such as NAME:TAG or NAME:TAG@sha256:DIGEST, got {request.base!r}")
    if request.torch_index is not None and not _URL.fullmatch(request.torch_index):
        raise ValueError(
            f"--torch-index must be a URL, such as https://download.pytorch.org/whl/cu126, got {request.torch_index!r}"
        )


def _settings(
    request: Request, platform: Platform, model: ModelDescription, members: tuple[MemberChoices, ...]
) -> InferenceSettings:
    for name in sorted(request.options.keys() - platform.options.keys()):
        owners = [other.name for other in PLATFORMS.values() if name in other.options]
        raise ValueError(f"--{name} is for {', '.join(owners) or 'no platform'}; leave it out for {platform.name}")
    alone = len(members) == 1 and members[0].temperature == 1
    choices = replace(request.choices, folds=model.folds, members=() if alone else members)
    return InferenceSettings(
        platform.name,
        n_channels=len(model.channel_names),
        gpu=request.gpu,
        choices=choices,
        **platform.settings(request.options, model.channel_names, model.label_names),
    )


def _to_tarball(folder: Path, file: Path) -> None:
    """Pack a folder's contents, readable by everybody, and remove the folder."""
    let_everybody_read(folder)
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:  # weights hardly compress
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=_anonymous)
    shutil.rmtree(folder)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def let_everybody_read(folder: Path) -> None:
    """Give other users the right to read a folder that this program has made: containers run as another one."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
