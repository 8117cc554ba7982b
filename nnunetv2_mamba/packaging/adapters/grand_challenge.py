"""grand-challenge.org: one case per container, described by ``inputs.json``, its images in a folder per socket."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...files import read_json
from ..settings import Settings
from . import Case, visible

INPUT, OUTPUT = Path("/input"), Path("/output")
ENDING = ".mha"


def find_cases(input_folder: Path, output_folder: Path, settings: Settings) -> list[Case]:
    """The case.

    Raises:
        OSError, ValueError: naming the file that is missing or not as it should be.
    """
    sockets = _image_sockets(input_folder / "inputs.json")
    wanted = settings.channels or tuple(sockets)
    if len(wanted) > 1 and not settings.channels:
        raise ValueError(
            f"{input_folder / 'inputs.json'} has several images ({', '.join(wanted)}): package with --interface SLUG=0"
        )
    images = tuple(_only_image(input_folder / _folder(slug, sockets, input_folder)) for slug in wanted)
    return [Case(images[0].name.removesuffix(ENDING), images, output_folder / settings.output / "output.mha")]


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


def _folder(slug: str, sockets: dict[str, str], input_folder: Path) -> str:
    if slug not in sockets:
        raise ValueError(f"{input_folder / 'inputs.json'} has no image {slug}; it has {', '.join(sockets)}")
    return sockets[slug]


def _only_image(folder: Path) -> Path:
    everything = visible(folder) if folder.is_dir() else []
    files = [path for path in everything if path.name.endswith(ENDING)]
    if len(files) != 1:
        others = f"; it has {', '.join(path.name for path in everything)}" if everything else ""
        raise ValueError(f"{folder} must have one {ENDING} file and has {len(files)}{others}")
    return files[0]
