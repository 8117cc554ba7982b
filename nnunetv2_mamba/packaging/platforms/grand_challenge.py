"""grand-challenge.org: one case at a time, described by ``inputs.json``, its images in a folder per socket."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ...files import read_json, write_json
from ..inference_settings import InferenceSettings
from ..outputs import PROBABILITY, VOLUMES, Output
from .base_platform import CaseFiles, Platform, register, visible_entries

ENDING = ".mha"
_IMAGE = f"output{ENDING}"  # in the folder of a socket
APIS = ("invoke", "exec")  # as the image's label says them
# What the user gives goes into scripts.
_SLUG = re.compile(r"[a-z0-9-]+")
_PATH = re.compile(r"(?!\.)[A-Za-z0-9_.-]+(?:/(?!\.)[A-Za-z0-9_.-]+)*")


class GrandChallenge(Platform):
    """`--interface SLUG=output` names the socket of the segmentation (`SLUG@images/FOLDER=output` where its relative
    path is not `images/SLUG`); slugs have small letters, digits and `-`. Any number of `SLUG=probability:LABEL` and
    `SLUG=volumes` ([below](#more-outputs)) can be added. A model of one channel takes the one image there is; one of
    several needs `--interface SLUG=CHANNEL` for each, CHANNEL being its number or its name in `dataset.json`. Other
    sockets are ignored. Both spellings of `inputs.json` (`interface`, and `socket` as in newer templates) are
    understood. `--api` is how the platform calls the image: `invoke` (the default, as in the platform's templates of
    2026) starts a server that loads the model once, `exec` the program for each case.
    """

    name = "grand-challenge"
    title = "grand-challenge"
    reads = "`/input/inputs.json`, `/input/images/SLUG/*.mha`, one case per request or start"
    writes = "`/output/images/SLUG/output.mha`"
    called_as = "the entry point; with `--api invoke` then `GET /health` and `POST /invoke` on port 4743"
    user = "not root"
    model_in_image = False
    options = {
        "api": {
            "choices": APIS,
            "help": "grand-challenge: how it calls the container, as a server or once per case (default: invoke)",
        },
        "interface": {
            "action": "append",
            "metavar": "SLUG=CHANNEL|SLUG=output|...",
            "help": "grand-challenge: the socket of an input channel (number or name; not needed for one channel), of "
            "the segmentation, of a probability map (SLUG=probability:LABEL) or of volumes in ml (SLUG=volumes, "
            "SLUG=volumes:LABEL); SLUG@PATH=... where its path is not images/SLUG or SLUG.json. Repeat",
        },
    }
    defaults = {"api": "invoke"}

    def settings(
        self, options: Mapping[str, Any], channel_names: Sequence[str], label_names: Sequence[str]
    ) -> dict[str, Any]:
        api = self.with_defaults(options)["api"]
        if api not in APIS:
            raise ValueError(f"--api must be one of {', '.join(APIS)}, got {api!r}")
        inputs: dict[int, str] = {}
        output = ""
        more: list[Output] = []
        for interface in options.get("interface", ()):
            slug, path, role = _parts(interface)
            if role == "output":
                if output:
                    raise ValueError(f"--interface names two outputs, {output} and {slug}: the model makes one")
                output = path or f"images/{slug}"
            elif kind := _kind_of(role):
                more.append(_further_output(kind, slug, path, role, label_names))
            else:
                channel = _channel_of(role, channel_names)
                if channel is None or channel in inputs:
                    raise ValueError(
                        f"--interface {interface}: give each channel once, as a number from 0 or as one of: "
                        + ", ".join(channel_names)
                    )
                inputs[channel] = slug
        if not output:
            raise ValueError(
                "grand-challenge needs --interface SLUG=output: the slug of the socket for the segmentation"
            )
        paths = [f"{output}/{_IMAGE}", *(str(further.path) for further in more)]
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise ValueError(f"--interface names two outputs at {twice[0]}: give each its own socket")
        missing = [name for channel, name in enumerate(channel_names) if channel not in inputs]
        if missing and (inputs or len(channel_names) > 1):
            raise ValueError(f"--interface SLUG=CHANNEL is missing for the channel(s) {', '.join(missing)}")
        channels = tuple(inputs[channel] for channel in sorted(inputs))
        return {"channels": channels, "output": output, "more_outputs": tuple(more)}

    def find_cases(self, input_folder: Path, output_folder: Path, settings: InferenceSettings) -> list[CaseFiles]:
        sockets = _image_sockets(input_folder / "inputs.json")
        wanted = settings.channels or tuple(sockets)
        if len(wanted) > 1 and not settings.channels:
            raise ValueError(
                f"{input_folder / 'inputs.json'} has several images ({', '.join(wanted)}): package with --interface "
                "SLUG=0"
            )
        for slug in wanted:
            if slug not in sockets:
                raise ValueError(f"{input_folder / 'inputs.json'} has no image {slug}; it has {', '.join(sockets)}")
        images = tuple(_only_image(input_folder / sockets[slug]) for slug in wanted)
        return [
            CaseFiles(
                images[0].name.removesuffix(ENDING),
                images,
                output_folder / settings.output / _IMAGE,
                more_outputs=tuple(
                    replace(output, path=output_folder / output.path) for output in settings.more_outputs
                ),
            )
        ]

    def lay_out(self, images: Sequence[Path], input_folder: Path, settings: InferenceSettings) -> None:
        import SimpleITK  # the command line, which reads this module, needs no images

        slugs = settings.channels or ("image",)
        sockets = [{"slug": slug, "relative_path": f"images/{slug}"} for slug in slugs]
        write_json(input_folder / "inputs.json", [{"socket": socket} for socket in sockets])
        for socket, image in zip(sockets, images, strict=True):
            folder = input_folder / socket["relative_path"]
            folder.mkdir(parents=True)
            SimpleITK.WriteImage(SimpleITK.ReadImage(image), folder / f"image{ENDING}")


def _parts(interface: str) -> tuple[str, str, str]:
    """Slug, path (empty where there is none) and role of ``SLUG@PATH=ROLE``."""
    slug, _, role = interface.partition("=")
    slug, at, path = slug.partition("@")
    if not _SLUG.fullmatch(slug) or not role:
        raise ValueError(
            f"--interface takes SLUG=CHANNEL or SLUG=output, SLUG of small letters, digits and -, got {interface!r}"
        )
    if at and not _PATH.fullmatch(path):
        raise ValueError(f"--interface SLUG@PATH=output takes a relative path without .., got {interface!r}")
    return slug, path, role


def _kind_of(role: str) -> str:
    """Which output beside the segmentation a role asks for; empty where it is a channel's."""
    kind = role.partition(":")[0]
    return kind if role == VOLUMES or (kind in (PROBABILITY, VOLUMES) and ":" in role) else ""


def _further_output(kind: str, slug: str, path: str, role: str, label_names: Sequence[str]) -> Output:
    label = role.partition(":")[2]
    if ":" in role and label not in label_names:
        raise ValueError(f"--interface {slug}={role}: the model's labels are {', '.join(label_names)}")
    if kind == VOLUMES:
        return Output(kind, PurePosixPath(path or f"{slug}.json"), label)
    return Output(kind, PurePosixPath(path or f"images/{slug}") / _IMAGE, label)


def _channel_of(role: str, channel_names: Sequence[str]) -> int | None:
    """The channel of a number from 0 or, where it is none, of a name."""
    numbers = [str(number) for number in range(len(channel_names))]
    names = numbers if role in numbers else list(channel_names)
    return names.index(role) if role in names else None


def _image_sockets(file: Path) -> dict[str, str]:
    """Slug to folder below the input, of the sockets that hold images."""
    try:
        values = read_json(file)
        sockets = [value.get("socket") or value["interface"] for value in values]  # the latter until 2025
        folders = {socket["slug"]: socket.get("relative_path") or f"images/{socket['slug']}" for socket in sockets}
        parts = {slug: PurePosixPath(folder).parts for slug, folder in folders.items()}
        images = {slug: folders[slug] for slug, own in parts.items() if own[:1] == ("images",) and ".." not in own}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not grand-challenge's list of inputs: {error!r}") from error
    if not images:
        raise ValueError(f"{file} names no image")
    return images


def _only_image(folder: Path) -> Path:
    everything = visible_entries(folder) if folder.is_dir() else []
    files = [path for path in everything if path.name.endswith(ENDING)]
    if len(files) != 1:
        others = f"; it has {', '.join(path.name for path in everything)}" if everything else ""
        raise ValueError(f"{folder} must have one {ENDING} file and has {len(files)}{others}")
    return files[0]


register(GrandChallenge())
