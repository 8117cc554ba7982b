"""A model, loaded once, that segments case after case in this process: the same voxels as ``nnUNetv2_predict``."""

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
import torch

from ..evaluation.component_filter import filtered
from ..evaluation.measured_labels import Labels, read_labels
from ..image_files import check_complete
from .class_maps import ClassMaps, ImageLogits, resampler_to_image
from .image_grid import ImageGrid
from .image_io import as_nifti, count_non_finite, read_geometry
from .inference_settings import Choices
from .label_map import label_map
from .model_files import read_model
from .network_loading import load_model
from .stored_logits import StoredLogits
from .tile_predictor import Preprocessed, TilePredictor
from .time_budget import MARGIN, Effort, Guard, ladder

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
    """A model of ``copy_for_inference``, ready to segment.

    Args:
        folder: where the model is, as of ``open_model``.
        choices: how it is run.
        device: ``cuda``, ``cpu`` or ``mps``.
        clock: seconds; the time budget is kept on it.
        name: what messages call the model; ``folder`` where None.
        scratch: folder for the logits of a large image, 2 bytes for each class and voxel; None for the system's folder
            of temporary files.
        progress: show a bar for each fold.

    Attributes:
        model: what was loaded.

    Raises:
        OSError, ValueError, RuntimeError: for a folder that does not have what ``choices`` asks for.
    """

    def __init__(
        self,
        folder: Path | zipfile.Path,
        choices: Choices,
        device: str,
        clock: Callable[[], float] = time.perf_counter,
        name: object = None,
        scratch: Path | None = None,
        progress: bool = False,
    ):
        self._choices, self._clock, self._scratch = choices, clock, scratch
        self.model = load_model(read_model(folder, choices.folds, choices.checkpoint, name))
        self._tiles = TilePredictor(self.model, choices.precision, device, clock, progress)
        self._pass_seconds: float | None = None
        if choices.component_filter.rules:
            choices.component_filter.check([label.name for label in self.labels.measured])

    @cached_property
    def labels(self) -> Labels:
        """What the heads are called, and which labels of the segmentation belong to each."""
        return read_labels(self.model.dataset, self.model.plans)

    def warm_up(self) -> None:
        """Run a pass before the first case, for what is compiled or chosen on first use; times it for the budget."""
        self._pass_seconds = self._tiles.time_a_pass()

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
        begin = self._clock()
        case, properties = self._preprocess(*_read(files, reader), _read_labels(previous, reader))
        notes = tuple(note for file in files if (note := _note_of_non_finite(file)))
        asked = asked or Effort(len(self.model.weights), self._choices.mirroring, self._choices.step_size)
        model, heads = self.model, self._tiles.label_manager
        resample = resampler_to_image(model.plans, model.configuration, properties)
        grid = ImageGrid(reader, properties, geometry)
        with StoredLogits((heads.num_segmentation_heads, *case.images.shape[1:]), self._scratch) as logits:
            budget = self._choices.time_budget
            if budget is None:
                self._tiles.predict(case, asked, logits)
                how, complete = str(asked), True
            else:
                finishing = self._clock() - begin + self._resampling_seconds(resample, case, bool(probabilities))
                deadline = started + budget - finishing * MARGIN
                how, complete = self._predict_until(deadline, asked, case, logits)
            del case  # not needed while classes are resampled
            maps = ImageLogits(logits, resample, heads, model.plans, properties)
            labels = label_map(maps, partial(_hand_out, maps, grid, probabilities))
        if self._choices.component_filter.rules:
            values = {label.name: label.values for label in self.labels.measured}
            voxel_mm3 = math.prod(geometry.GetSpacing())
            labels, removed = filtered(labels, self._choices.component_filter, values, voxel_mm3)
            how = f"{how}, {sum(removed.values())} components removed"
        labels = labels.astype(np.uint8 if labels.max() < 255 else np.uint16, copy=False)  # as nnU-Net's writers
        return SegmentedCase(grid.image(labels), how, complete, notes)

    def _preprocess(
        self, array: np.ndarray, properties: dict, previous: np.ndarray | None
    ) -> tuple[Preprocessed, dict]:
        configuration = self.model.configuration
        data, labels, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
            array, previous, properties, self.model.plans, configuration, self.model.dataset
        )
        data = torch.from_numpy(data).to(torch.float32, memory_format=torch.contiguous_format)
        return Preprocessed(data, None if previous is None else torch.from_numpy(labels[0])), properties

    def _predict_until(
        self, deadline: float, asked: Effort, case: Preprocessed, logits: StoredLogits
    ) -> tuple[str, bool]:
        guard = Guard(deadline, self._clock)
        guard.record(self._seconds_of_a_pass(deadline), passes=1)
        efforts = ladder(asked)
        cheapest = efforts[-1]
        chosen = guard.choose(efforts, lambda effort: self._tiles.passes(case, effort))
        how = str(cheapest)
        if chosen != cheapest:
            guard.open(reserved=self._tiles.passes(case, cheapest))
            self._tiles.predict(case, chosen, logits, guard)
            if not guard.closed:
                return str(chosen), True
            how += f" ({chosen} took too long)"
        guard.open(reserved=0)
        self._tiles.predict(case, cheapest, logits, guard)
        return how, not guard.closed

    def _seconds_of_a_pass(self, deadline: float) -> float:
        """Measured, where there is time left for a pass; else what the last one took."""
        if self._pass_seconds is None:
            self.warm_up()
        if deadline - self._clock() > self._pass_seconds:
            self._pass_seconds = self._tiles.time_a_pass()
        return self._pass_seconds

    def _resampling_seconds(
        self, resample: Callable[[np.ndarray], np.ndarray], case: Preprocessed, probabilities: bool
    ) -> float:
        """How long the logits will take to resample to the image's grid: measured on one class, for all of them.

        Probabilities of classes need all of them once before.
        """
        begin = self._clock()
        resample(np.zeros((1, *case.images.shape[1:]), dtype=np.float16))
        heads = self._tiles.label_manager
        times = 2 if probabilities and not heads.has_regions else 1
        return (self._clock() - begin) * heads.num_segmentation_heads * times


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


def _note_of_non_finite(file: Path) -> str:
    count = count_non_finite(file)
    return f"{file} has {count} voxels that are NaN or infinite; they were taken as 0" if count else ""
