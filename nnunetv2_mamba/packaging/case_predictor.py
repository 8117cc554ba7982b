"""Models, loaded once, that segment case after case in this process: of one, the voxels of ``nnUNetv2_predict``."""

from __future__ import annotations

import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask

from ..evaluation.component_filter import filtered
from ..evaluation.measured_labels import Labels, read_labels
from ..image_files import check_complete
from ..memory.usage import GIB, free_memory
from ..text import times
from .class_maps import ClassMaps
from .ensemble import Ensemble
from .ensemble_checks import check_alike
from .image_grid import ImageGrid
from .image_io import as_nifti, count_non_finite, read_geometry
from .inference_settings import Choices
from .label_map import label_map
from .member import Image, Member
from .model_content import read_model
from .network_loading import load_model
from .time_budget import Effort

# Takes the probability map of a head, float32 and of the whole image, and the grid that it lies on.
TakeProbability = Callable[[np.ndarray, ImageGrid], None]


class SegmentedCase(NamedTuple):
    """Labels on the grid of the input, how they were made, whether the time was enough for all tiles, and what else a
    user must know of the case, a sentence each."""

    image: SimpleITK.Image
    how: str
    complete: bool = True
    notes: tuple[str, ...] = ()


class CasePredictor:
    """One model or several, as of ``copy_for_inference``, ready to segment.

    Args:
        folders: where the models of ``choices.models`` are, each as of ``open_model``; one folder alone serves for one.
        choices: how they are run.
        device: ``cuda``, ``cpu`` or ``mps``.
        clock: seconds; the time budget is kept on it.
        names: what messages call the models; ``folders`` where None.
        scratch: folder for the logits of a large image, 2 bytes for each class and voxel, and 4 bytes of the mean of
            several models; None for the system's folder of temporary files.
        progress: show a bar for each fold.

    Attributes:
        model: what was loaded; the first of several.

    Raises:
        OSError, ValueError, RuntimeError, pickle.UnpicklingError: for a folder that does not have what ``choices`` asks
            for, and models that have not the same labels and images.
    """

    def __init__(
        self,
        folders: Path | zipfile.Path | Sequence[Path | zipfile.Path],
        choices: Choices,
        device: str,
        clock: Callable[[], float] = time.perf_counter,
        names: object = None,
        scratch: Path | None = None,
        progress: bool = False,
    ):
        folders = folders if isinstance(folders, list | tuple) else [folders]
        names = folders if names is None else names if isinstance(names, list | tuple) else [names]
        contents = [
            read_model(folder, member.folds, choices.checkpoint, name)
            for folder, member, name in zip(folders, choices.models, names, strict=True)
        ]
        check_alike(contents)
        members = [
            Member(load_model(content), choices.precision, device, clock, progress, member.temperature)
            for content, member in zip(contents, choices.models, strict=True)
        ]
        self._choices, self._clock = choices, clock
        self._ensemble = Ensemble(members, choices.average, clock, scratch)
        self.model = members[0].model
        if choices.component_filter.rules:
            choices.component_filter.check([label.name for label in self.labels.measured])

    @cached_property
    def labels(self) -> Labels:
        """What the heads are called, and which labels of the segmentation belong to each."""
        return read_labels(self.model.dataset, self.model.plans)

    def warm_up(self) -> None:
        """Run a pass before the first case, for what is compiled or chosen on first use; times it for the budget."""
        self._ensemble.warm_up()

    def segment(
        self,
        files: Sequence[Path],
        started: float | None = None,
        asked: Effort | None = None,
        previous: Path | None = None,
        probabilities: Sequence[tuple[int, TakeProbability]] = (),
    ) -> SegmentedCase:
        """Segment one case.

        Args:
            files: the channels in the model's order, 3D images on one grid.
            started: on the clock, when the time budget began; None for now.
            asked: what is run, as far as the time budget allows; None for what the choices say.
            previous: the case's segmentation by the stage before, on the same grid, for the second model of a cascade.
            probabilities: numbers of heads, as of ``ClassMaps``, and what takes the map of each; one is in memory at a
                time.

        Returns:
            The labels lie on exactly the grid of the first file.

        Raises:
            OSError, ValueError: for images that are missing or not as they should be; the message names the file.
            FloatingPointError: for logits that are infinite, or NaN alone.
        """
        started = self._clock() if started is None else started
        if len(files) != self.model.n_channels:
            names = ", ".join(str(file) for file in files)
            raise ValueError(f"the model takes {self.model.n_channels} channel(s), this case has {len(files)}: {names}")
        stage = self.model.configuration.previous_stage_name
        if (stage is None) != (previous is None):
            needs = "no segmentation of another model" if stage is None else f"the segmentations of {stage}"
            raise ValueError(f"the model takes {needs}; see -prev_stage_predictions of nnunetv2_mamba predict")
        geometry = read_geometry(files if previous is None else [*files, previous])
        reader = self.model.plans.image_reader_writer_class()
        asked = asked or self._all
        begin = self._clock()
        image = Image(*_read(files, reader), _read_labels(previous, reader))
        _check_memory(image, self._ensemble.members, files)
        reading = self._clock() - begin
        notes = tuple(note for file in files if (note := _note_of_non_finite(file)))
        budget = self._choices.time_budget
        end = None if budget is None else started + budget
        running = self._ensemble.predict(image, asked, end, reading, bool(probabilities))
        del image  # not needed while labels are chosen
        with running as prediction:
            maps, grid = prediction.maps, ImageGrid(reader, prediction.properties, geometry)
            labels = label_map(maps, partial(_hand_out, maps, grid, probabilities))
        how = prediction.how(asked)
        if self._choices.component_filter.rules:
            values = {label.name: label.values for label in self.labels.measured}
            voxel_mm3 = math.prod(geometry.spacing)
            labels, removed = filtered(labels, self._choices.component_filter, values, voxel_mm3)
            how = f"{how}, {sum(removed.values())} components removed"
        if prediction.without_numbers:
            notes += (f"the network gave NaN for {prediction.without_numbers} voxels; it may need to compute in fp32",)
        labels = labels.astype(np.uint8 if labels.max() < 255 else np.uint16, copy=False)  # as nnU-Net's writers
        return SegmentedCase(grid.image(labels), how, prediction.complete, notes)

    @property
    def _all(self) -> Effort:
        """What the choices say."""
        members = self._ensemble.members
        folds = max(len(member.model.weights) for member in members)
        return Effort(folds, self._choices.mirroring, self._choices.step_size, len(members))


def _hand_out(
    maps: ClassMaps, grid: ImageGrid, wanted: Sequence[tuple[int, TakeProbability]], head: int, values: np.ndarray
) -> None:
    takers = [take for index, take in wanted if index == head]
    if takers:
        probability = maps.whole_probability(head, values)
        for take in takers:
            take(probability, grid)


def _read(files: Sequence[Path], reader) -> tuple[np.ndarray, dict]:
    """The images as nnU-Net reads them; what its reader for this model does not know is turned into NIfTI before."""
    for file in files:
        check_complete(file)
    with tempfile.TemporaryDirectory() as folder:
        known = tuple(reader.supported_file_endings)
        readable = [
            file if file.name.endswith(known) else as_nifti(file, Path(folder) / f"{channel}.nii")
            for channel, file in enumerate(files)
        ]
        try:
            array, properties = reader.read_images([str(file) for file in readable])
        except Exception as error:  # each reader's library has its own
            names = ", ".join(str(file) for file in files)
            raise ValueError(f"{names} cannot be read: {str(error).strip() or 'on different grids'}") from error
    np.nan_to_num(array, copy=False, nan=0, posinf=0, neginf=0)  # as ITK reads NIfTI, and so nnU-Net
    return array, properties


def _read_labels(file: Path | None, reader) -> np.ndarray | None:
    """A segmentation ``(1, *spatial)``, the axes as the images'."""
    if file is None:
        return None
    check_complete(file)
    try:
        return reader.read_seg(str(file))[0]
    except Exception as error:  # each reader's library has its own
        raise ValueError(f"{file} cannot be read: {str(error).strip()}") from error


def _check_memory(image: Image, members: Sequence[Member], files: Sequence[Path]) -> None:
    """Refuse what nnU-Net could not resample: a header in other units has it make thousands of voxels of each.

    All channels are resampled to float32, one after the other in float64.
    """
    spacing, channels, free = image.properties["spacing"], image.channels, free_memory()
    bytes_per_voxel = 4 * len(channels) + 8

    def largest(extent: Sequence[int]) -> tuple[int, ...]:
        return max((member.shape(extent, spacing) for member in members), key=math.prod)

    shape = largest(channels.shape[1:])
    if bytes_per_voxel * math.prod(shape) > free:
        shape = largest(_cropped(channels))
    needed = bytes_per_voxel * math.prod(shape)
    if needed <= free:
        return
    names = ", ".join(str(file) for file in files)
    raise ValueError(
        f"{names}: of voxels of {times(spacing)} mm, as the header says, the model makes {times(shape)}, which need "
        f"{needed / GIB:.0f} GiB of memory, and {free / GIB:.0f} GiB are free; is the voxel size right?"
    )


def _cropped(channels: np.ndarray) -> tuple[int, ...]:
    """The shape of what nnU-Net crops to: the voxels that are not zero in all channels."""
    return tuple(stop - start for start, stop in get_bbox_from_mask(channels.any(axis=0)))


def _note_of_non_finite(file: Path) -> str:
    count = count_non_finite(file)
    return f"{file} has {count} voxels that are NaN or infinite; they were taken as 0" if count else ""
