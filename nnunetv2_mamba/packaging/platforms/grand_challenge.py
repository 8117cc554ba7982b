"""grand-challenge.org: one case at a time, described by ``inputs.json``, its images in a folder per socket."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...files import read_json, write_json
from ..inference_settings import InferenceSettings
from .base_platform import CaseFiles, Platform, register, visible_entries

ENDING = ".mha"
APIS = ("invoke", "exec")  # as the image's label says them
# What the user gives goes into scripts.
_SLUG = re.compile(r"[a-z0-9-]+")
_FOLDER = re.compile(r"(?!\.)[A-Za-z0-9_.-]+(?:/(?!\.)[A-Za-z0-9_.-]+)*")


class GrandChallenge(Platform):
    """`--interface SLUG=output` names the socket of the segmentation (`SLUG@images/FOLDER=output` where its relative
    path is not `images/SLUG`); slugs have small letters, digits and `-`. A model of one channel takes the one image
    there is; one of several needs `--interface SLUG=CHANNEL` for each, CHANNEL being its number or its name in
    `dataset.json`. Other sockets are ignored. Both spellings of `inputs.json` (`interface`, and `socket` as in newer
    templates) are understood. `--api` is how the platform calls the image: `invoke` (the default, as in the platform's
    templates of 2026) starts a server that loads the model once, `exec` the program for each case.
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
            "metavar": "SLUG=CHANNEL|SLUG=output",
            "help": "grand-challenge: the socket of an input channel (number or name; not needed for one channel) or "
            "of the segmentation; SLUG@images/FOLDER=output where its path is not images/SLUG. Repeat",
        },
    }
    defaults = {"api": "invoke"}

    def settings(self, options: Mapping[str, Any], channel_names: Sequence[str]) -> dict[str, Any]:
        api = self.with_defaults(options)["api"]
        if api not in APIS:
            raise ValueError(f"--api must be one of {', '.join(APIS)}, got {api!r}")
        inputs: dict[int, str] = {}
        output = ""
        for interface in options.get("interface", ()):
            slug, _, role = interface.partition("=")
            slug, at, folder = slug.partition("@")
            if not _SLUG.fullmatch(slug) or not role:
                raise ValueError(
                    "--interface takes SLUG=CHANNEL or SLUG=output, SLUG of small letters, digits and -, "
                    f"got {interface!r}"
                )
            if at and not _FOLDER.fullmatch(folder):
                raise ValueError(f"--interface SLUG@FOLDER=output takes a relative path without .., got {interface!r}")
            if role == "output":
                if output:
                    raise ValueError(f"--interface names two outputs, {output} and {slug}: the model makes one")
                output = folder or f"images/{slug}"
                continue
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
        missing = [name for channel, name in enumerate(channel_names) if channel not in inputs]
        if missing and (inputs or len(channel_names) > 1):
            raise ValueError(f"--interface SLUG=CHANNEL is missing for the channel(s) {', '.join(missing)}")
        return {"channels": tuple(inputs[channel] for channel in sorted(inputs)), "output": output}

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
        return [CaseFiles(images[0].name.removesuffix(ENDING), images, output_folder / settings.output / "output.mha")]

    def lay_out(self, images: Sequence[Path], input_folder: Path, settings: InferenceSettings) -> None:
        import SimpleITK  # the command line, which reads this module, needs no images

        slugs = settings.channels or ("image",)
        sockets = [{"slug": slug, "relative_path": f"images/{slug}"} for slug in slugs]
        write_json(input_folder / "inputs.json", [{"socket": socket} for socket in sockets])
        for socket, image in zip(sockets, images, strict=True):
            folder = input_folder / socket["relative_path"]
            folder.mkdir(parents=True)
            SimpleITK.WriteImage(SimpleITK.ReadImage(image), folder / f"image{ENDING}")


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
        images = {slug: folder for slug, folder in folders.items() if PurePosixPath(folder).parts[:1] == ("images",)}
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
