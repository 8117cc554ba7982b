"""What every platform declares, and the platforms by name. Knows nothing of nnU-Net: the command line reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import is_hidden
from ..inference_settings import InferenceSettings
from ..outputs import Output


@dataclass(frozen=True)
class CaseFiles:
    """A case: its channels' files in the model's order (they need not exist) and the files to write.

    Attributes:
        output: the segmentation.
        more_outputs: what else is written.
        previous: the segmentation by the first model of a cascade, for its second.
        problem: why it cannot be segmented, where that is known from the names of the files; it names the file.
    """

    name: str
    images: tuple[Path, ...]
    output: Path
    problem: str = ""
    previous: Path | None = None
    more_outputs: tuple[Output, ...] = ()

    @property
    def files(self) -> list[Path]:
        """All that are written."""
        return [self.output, *(output.path for output in self.more_outputs)]


class Platform(ABC):
    """A platform that runs containers. A subclass's docstring is its paragraph in the documentation, in Markdown.

    The files of a build context are the templates ``packaging/templates/NAME``, and those of ``templates/common`` that
    are not in it; a template of a platform fills the blocks of the common one. A platform that calls the container as
    the common ones do needs no folder. How a container is called is in templates only, and a case is found here without
    knowing of it.

    Attributes:
        name: what ``package --for``, ``inference.json`` and the folder of templates, if any, call it.
        title: what a reader knows it as.
        reads, writes: a case's files, in Markdown.
        called_as: how the platform starts the container, in Markdown.
        user: whose rights the container has, in Markdown.
        input, output: folders in the container.
        memory_gb, shared_memory_gb: what the platform allows, or a little less.
        model_in_image: whether the weights are in the image; else they are ``model.tar.gz``, which the platform unpacks
            to ``/opt/ml/model``.
        options: of the command ``package``, for this platform only: name to keywords of ``argparse``.
        defaults: of options, where they are not given; else None.
    """

    name: str
    title: str
    reads: str
    writes: str
    called_as = "the entry point"
    user = "the image's"
    input = "/input"
    output = "/output"
    memory_gb = 30
    shared_memory_gb = 2
    model_in_image = True
    options: Mapping[str, Mapping[str, Any]] = {}
    defaults: Mapping[str, Any] = {}

    def with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options of this platform by name: those given, and the defaults of the others."""
        return {**dict.fromkeys(self.options), **self.defaults, **given}

    def settings(
        self, options: Mapping[str, Any], channel_names: Sequence[str], label_names: Sequence[str]
    ) -> dict[str, Any]:
        """The fields of ``InferenceSettings`` that this platform's options decide.

        Args:
            options: those given, by name.
            channel_names: of the model, in their order.
            label_names: of its labels or regions, without the background.

        Raises:
            ValueError: for options that do not fit the model, naming the option.
        """
        return {}

    @abstractmethod
    def find_cases(self, input_folder: Path, output_folder: Path, settings: InferenceSettings) -> list[CaseFiles]:
        """All cases in a folder; those that cannot be segmented are cases with a problem.

        Raises:
            OSError, ValueError: where there are none, naming the folder or file.
        """

    @abstractmethod
    def lay_out(self, images: Sequence[Path], input_folder: Path, settings: InferenceSettings) -> None:
        """Write a case as the platform does, so that a container can be tried without the platform's data.

        Args:
            images: the case's channels in the model's order, NIfTI files.
            input_folder: an empty one.
        """


PLATFORMS: dict[str, Platform] = {}


def register(platform: Platform) -> None:
    """Add a platform.

    Raises:
        ValueError: if its name is taken.
    """
    if platform.name in PLATFORMS:
        raise ValueError(f"two platforms are named {platform.name}")
    PLATFORMS[platform.name] = platform


def visible_entries(folder: Path) -> list[Path]:
    """What is in a folder, in order, without hidden files.

    Raises:
        OSError: for a folder that cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not is_hidden(path))


def stray_images(files: Iterable[Path], wanted: str) -> list[CaseFiles]:
    """Those files that are NIfTI images, in any letter case, as cases that fail: nobody is to miss them in silence."""
    return [
        CaseFiles(file.name, (file,), Path(), f"{file} is not {wanted}")
        for file in files
        if ".nii" in file.name.lower()
    ]
