"""What ``dataset.json`` and ``plans.json`` say of a data set: its files, labels and reader."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import (
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ..files import read_json_object
from ..image_files import check_complete
from .measured_labels import Labels, read_labels


@dataclass(frozen=True)
class DataSet:
    """A data set, as its two files describe it.

    Attributes:
        file: the ``dataset.json``.
        description: what it holds.
        plans: what ``plans.json`` holds, if there is one.
        ending: of the files.
    """

    file: Path
    description: dict
    plans: PlansManager | None
    ending: str
    labels: Labels

    def reader(self, references: Iterable[Path]) -> tuple[type[BaseReaderWriter], list[str]]:
        """Find the plans' reader, else the one that nnU-Net takes for such files, with a note on what it passes over.

        Raises:
            ValueError: nnU-Net has none.
        """
        if self.plans is not None:
            return self.plans.image_reader_writer_class, []
        example = next((str(reference) for reference in references if _is_complete(reference)), None)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # nnU-Net prints the traceback of every reader that fails
                reader = determine_reader_writer_from_dataset_json(self.description, example, verbose=False)
        except RuntimeError as error:
            raise ValueError(f"{self.file}: {error}") from error
        named = self.description.get("overwrite_image_reader_writer", "None")
        if named in ("None", reader.__name__):
            return reader, []
        return reader, [
            f"{self.file} names the reader {named!r} (overwrite_image_reader_writer), which nnU-Net does not have: "
            f"{reader.__name__} was used, as nnU-Net does"
        ]


def read_data_set(dataset_json: Path, plans: Path | None) -> DataSet:
    """Read and check the two files.

    Raises:
        OSError: where one is missing or cannot be read.
        ValueError: naming the file and the key that is missing or wrong.
    """
    description = read_json_object(dataset_json)
    for key in ("labels", "file_ending"):
        if key not in description:
            raise ValueError(f"{dataset_json} has no {key!r}")
    ending = description["file_ending"]
    if not isinstance(ending, str) or not ending.startswith(".") or len(ending) < 2:
        raise ValueError(f"{dataset_json}: 'file_ending' must start with a dot, as '.nii.gz', not {ending!r}")
    reader = description.get("overwrite_image_reader_writer", "None")
    if not isinstance(reader, str):
        raise ValueError(
            f"{dataset_json}: 'overwrite_image_reader_writer' must be a reader's name, not {reader!r}; or leave it out"
        )
    manager = None if plans is None else _read_plans(plans)
    return DataSet(dataset_json, description, manager, ending, read_labels(description, manager, dataset_json))


def _read_plans(file: Path) -> PlansManager:
    """Read plans whose reader and label manager nnU-Net has; its own serves where they name no label manager."""
    plans = PlansManager(read_json_object(file))
    plans.plans.setdefault("label_manager", "LabelManager")
    labels, reader = (name_in(plans, key, file) for key in ("label_manager", "image_reader_writer"))
    if plans.label_manager_class is None:
        raise ValueError(f"{file}: nnU-Net has no {labels!r} ('label_manager')")
    try:
        recursive_find_reader_writer_by_name(reader)
    except RuntimeError as error:
        raise ValueError(f"{file}: nnU-Net has no reader {reader!r} ('image_reader_writer')") from error
    return plans


def name_in(plans: PlansManager, key: str, file: Path) -> str:
    """Look up a name that plans must have.

    Args:
        file: where ``plans`` was read, for the message.

    Raises:
        ValueError: it is not there.
    """
    value = plans.plans.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{file} has no {key!r}, which nnU-Net's plans name; take the file that the training left")
    return value


def _is_complete(file: Path) -> bool:
    try:
        check_complete(file)
    except ValueError:  # said when the case is read
        return False
    return True
