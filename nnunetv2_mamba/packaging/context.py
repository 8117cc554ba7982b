"""Writes a Docker build context: everything that ``docker build`` needs for a challenge's container."""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import folder_made_whole, remove_left_behind
from .adapters import brats
from .model import Model, check_reader, copy_for_inference, open_model
from .settings import Choices, Settings
from .trial import try_model
from .wheel import pinned_requirements, write_wheel

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_FROM_INDEX = re.compile("torch(vision|audio)?==")  # built for one CUDA version, so all from one index
# What the user gives goes into a Dockerfile, YAML and scripts. Images are named as Docker's reference says.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"(?:[a-z0-9.-]+:\d+/)?{_COMPONENT}(?:/{_COMPONENT})*(?::\w[\w.-]{{0,127}})?", re.ASCII)
_URL = re.compile(r"[a-z]+://[A-Za-z0-9_.~:/@%+=-]+")
_SLUG = re.compile(r"[a-z0-9-]+")
_FOLDER = re.compile(r"(?!\.)[A-Za-z0-9_.-]+(?:/(?!\.)[A-Za-z0-9_.-]+)*")
_FINISHED = ".package-finished"  # in an output that was there, until its contents have moved up
# Template to file. All platforms have the first ones.
_FILES = {"Dockerfile": "Dockerfile", "dockerignore": ".dockerignore", "README.md": "README.md"}
_PLATFORM_FILES = {
    "grand-challenge": {"test_run.grand-challenge.sh": "test_run.sh"},
    "brats": {"test_run.brats.sh": "test_run.sh", "mlcube.yaml": "mlcube.yaml"},
    "flare": {"test_run.flare.sh": "test_run.sh", "predict.sh": "predict.sh"},
}


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        source: the model's folder or ZIP.
        platform: one of ``settings.PLATFORMS``.
        folds: as ``["0", "all"]``; None for all there are.
        interfaces: ``SLUG=CHANNEL`` and ``SLUG=output`` of grand-challenge; CHANNEL is a number or a name in
            dataset.json. An output may be ``SLUG@FOLDER=output`` where its relative path is not ``images/SLUG``.
        modalities: of BraTS in the order of the model's channels; None to tell them from the channels' names.
        gpu: whether the image has CUDA.
        torch_index: pip's index for PyTorch; None for PyTorch's CPU builds or, with a GPU, PyPI's.
        image: name of the Docker image.
        choices: the model's way to be run; its folds are replaced by those found.
    """

    source: Path
    platform: str
    folds: Sequence[str] | None = None
    interfaces: Sequence[str] = ()
    modalities: Sequence[str] | None = None
    gpu: bool = True
    torch_index: str | None = None
    image: str = "nnunetv2-mamba"
    choices: Choices = field(default_factory=Choices)


def write_context(request: Request, output: Path) -> Model:
    """Write the build context into a folder, which appears complete or not at all.

    Raises:
        FileExistsError: where ``output`` has something in it.
        OSError, ValueError, pickle.UnpicklingError: for a model or options that do not make a container.
    """
    with _made_or_filled(output) as context:
        model = _write(request, context)
        _let_everybody_read(context)
    return model


@contextmanager
def _made_or_filled(output: Path) -> Iterator[Path]:
    """Give a folder to fill that becomes ``output``, or whose contents move there where that is an empty folder.

    An empty folder stays the one that it is: it may be a mount point, a link to one, or the current folder.
    """
    if output.is_symlink() and not output.exists():
        raise FileExistsError(f"{output} is a link to nothing")
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        with folder_made_whole(output) as folder:
            yield folder
        return
    finished = output / _FINISHED
    if output.is_dir():
        remove_left_behind(finished)
    if not output.is_dir() or any(output.iterdir()):
        raise FileExistsError(f"{output} exists and is not an empty folder")
    with folder_made_whole(finished) as folder:
        yield folder
    for path in sorted(finished.iterdir()):
        path.rename(output / path.name)
    finished.rmdir()


def _write(request: Request, context: Path) -> Model:
    _check_names(request)
    model = copy_for_inference(open_model(request.source), context / "model", request.folds, request.choices.checkpoint)
    check_reader(model)
    settings = _settings(request, model)
    settings.write(context / "inference.json")
    try_model(context / "model", settings, request.source)
    if request.platform == "grand-challenge":
        _to_tarball(context / "model", context / "model.tar.gz")
    wheel = write_wheel(context)
    index = request.torch_index or (None if request.gpu else _CPU_INDEX)
    pins = pinned_requirements(wheel)
    (context / "requirements.txt").write_text("\n".join(pins) + "\n")
    environment = Environment(
        loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    for template, name in {**_FILES, **_PLATFORM_FILES[request.platform]}.items():
        text = environment.get_template(f"{template}.jinja").render(
            request=request,
            settings=settings,
            model=model,
            wheel=wheel.name,
            torch_index=index,
            torch_pins=[pin for pin in pins if _FROM_INDEX.match(pin)],
            python=_python_image(*sys.version_info[:2], sys.version_info.releaselevel),
        )
        (context / name).write_text(text, encoding="utf-8")
        if name.endswith(".sh"):
            (context / name).chmod(0o755)
    return model


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
    if request.torch_index is not None and not _URL.fullmatch(request.torch_index):
        raise ValueError(f"--torch-index must be a URL, got {request.torch_index!r}")


def _settings(request: Request, model: Model) -> Settings:
    settings = Settings(
        request.platform,
        n_channels=len(model.channel_names),
        gpu=request.gpu,
        choices=replace(request.choices, folds=model.folds),
    )
    if request.interfaces and request.platform != "grand-challenge":
        raise ValueError("--interface is for grand-challenge")
    if request.modalities and request.platform != "brats":
        raise ValueError("--modalities is for brats")
    if request.platform == "grand-challenge":
        channels, output = _sockets(request.interfaces, model.channel_names)
        return replace(settings, channels=channels, output=output)
    if request.platform == "brats":
        return replace(settings, channels=_modalities(request.modalities, model.channel_names))
    return settings


def _sockets(interfaces: Sequence[str], channel_names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Slugs of the model's channels, none where the only channel's is not given, and the folder of the output."""
    inputs: dict[int, str] = {}
    output = ""
    for interface in interfaces:
        slug, _, role = interface.partition("=")
        slug, at, folder = slug.partition("@")
        if not _SLUG.fullmatch(slug) or not role:
            raise ValueError(
                f"--interface takes SLUG=CHANNEL or SLUG=output, SLUG of small letters, digits and -, got {interface!r}"
            )
        if at and not _FOLDER.fullmatch(folder):
            raise ValueError(f"--interface SLUG@FOLDER=output takes a relative path without .., got {interface!r}")
        if role == "output":
            if output:
                raise ValueError(f"--interface names two outputs, {output} and {slug}: the model makes one")
            output = folder or f"images/{slug}"
            continue
        names = [str(number) for number in range(len(channel_names))]
        names = names if role in names else list(channel_names)
        if role not in names or names.index(role) in inputs:
            raise ValueError(
                f"--interface {interface}: give each channel once, as a number from 0 or as one of: "
                + ", ".join(channel_names)
            )
        inputs[names.index(role)] = slug
    if not output:
        raise ValueError("grand-challenge needs --interface SLUG=output: the slug of the socket for the segmentation")
    missing = [name for channel, name in enumerate(channel_names) if channel not in inputs]
    if missing and (inputs or len(channel_names) > 1):
        raise ValueError(f"--interface SLUG=CHANNEL is missing for the channel(s) {', '.join(missing)}")
    return tuple(inputs[channel] for channel in sorted(inputs)), output


def _modalities(modalities: Sequence[str] | None, channel_names: Sequence[str]) -> tuple[str, ...]:
    if modalities is None:
        modalities = [brats.modality_of(name) or "" for name in channel_names]
    valid = set(modalities) <= set(brats.MODALITIES) and len(set(modalities)) == len(modalities)
    if not valid or len(modalities) != len(channel_names):
        raise ValueError(
            f"--modalities must name one of {', '.join(brats.MODALITIES)} for each of the model's channels "
            f"({', '.join(channel_names)}), in their order"
        )
    return tuple(modalities)


def _to_tarball(folder: Path, file: Path) -> None:
    """Pack a folder's contents, readable by everybody, and remove the folder."""
    _let_everybody_read(folder)
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:  # weights hardly compress
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=_anonymous)
    shutil.rmtree(folder)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _let_everybody_read(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
