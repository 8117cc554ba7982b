"""A model, loaded once, that segments case after case in this process: the same voxels as ``nnUNetv2_predict``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from ..image_files import check_complete
from .description import channels_of
from .images import as_nifti, count_non_finite, read_geometry
from .network import initialize
from .settings import Choices
from .time_budget import MARGIN, Guard, Plan, ladder

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Segmentation(NamedTuple):
    """Labels on the grid of the input, how they were made, whether the time was enough for all tiles, and what else a
    user must know of the case, a sentence each."""

    image: SimpleITK.Image
    how: str
    complete: bool = True
    notes: tuple[str, ...] = ()


class CasePredictor:
    """A model of ``copy_for_inference``, ready to segment.

    Args:
        folder: the model's.
        choices: how it is run.
        device: ``cuda``, ``cpu`` or ``mps``.
        clock: seconds; the time budget is kept on it.
        name: of the model in messages; ``folder`` where None.

    Attributes:
        tiles: nnU-Net's predictor, with the plans, the data set's description and the network.

    Raises:
        OSError, ValueError, RuntimeError: for a folder that does not have what ``choices`` asks for.
    """

    def __init__(
        self,
        folder: Path,
        choices: Choices,
        device: str,
        clock: Callable[[], float] = time.perf_counter,
        name: object = None,
    ):
        self._choices, self._clock = choices, clock
        self.tiles = _Tiles(choices, device, clock)
        self._folds = self.tiles.load_folds(folder, choices, name)

    @property
    def n_channels(self) -> int:
        return len(channels_of(self.tiles.dataset_json))

    def warm_up(self) -> None:
        """Run a pass before the first case, for what is compiled or chosen on first use; times it for the budget."""
        self.tiles.warm_up()

    def segment(self, files: Sequence[Path], started: float | None = None, asked: Plan | None = None) -> Segmentation:
        """Segment one case.

        Args:
            files: the channels in the model's order, 3D images on one grid.
            started: on the clock, when the time budget began; None for now.
            asked: what is run, as far as the time budget allows; None for what the choices say.

        Returns:
            The labels lie on exactly the grid of the first file.

        Raises:
            OSError, ValueError: for images that are missing or not as they should be; the message names the file.
        """
        started = self._clock() if started is None else started
        if len(files) != self.n_channels:
            names = ", ".join(str(file) for file in files)
            raise ValueError(f"the model takes {self.n_channels} channel(s), this case has {len(files)}: {names}")
        geometry = read_geometry(files)
        reader = self.tiles.plans_manager.image_reader_writer_class()
        begin = self._clock()
        array, properties = _read(files, reader)
        notes = tuple(note for file in files if (note := _note_of_non_finite(file)))
        data, properties = self._preprocess(array, properties)
        asked = asked or Plan(len(self._folds), self._choices.mirroring, self._choices.step_size)
        logits, how, complete = self._logits(asked, data, properties, started, self._clock() - begin)
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.numpy(),
            self.tiles.plans_manager,
            self.tiles.configuration_manager,
            self.tiles.label_manager,
            properties,
        )
        return Segmentation(_image(labels, properties, reader, geometry), how, complete, notes)

    def _preprocess(self, array: np.ndarray, properties: dict) -> tuple[torch.Tensor, dict]:
        configuration = self.tiles.configuration_manager
        data, _, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
            array, None, properties, self.tiles.plans_manager, configuration, self.tiles.dataset_json
        )
        return torch.from_numpy(data).to(torch.float32, memory_format=torch.contiguous_format), properties

    def _logits(
        self, asked: Plan, data: torch.Tensor, properties: dict, started: float, reading: float
    ) -> tuple[torch.Tensor, str, bool]:
        if self._choices.time_budget is None:
            return self._run(asked, data), str(asked), True
        finishing = (reading + self._resampling_seconds(properties, data)) * MARGIN
        deadline = started + self._choices.time_budget - finishing
        guard = Guard(deadline, self._clock)
        self.tiles.pilot(guard, deadline)
        plans = ladder(asked)
        cheapest = plans[-1]
        chosen = guard.choose(plans, lambda plan: self._passes(plan, data))
        how = str(cheapest)
        if chosen != cheapest:
            guard.open(reserved=self._passes(cheapest, data))
            logits = self._run(chosen, data, guard)
            if not guard.closed:
                return logits, str(chosen), True
            how += f" ({chosen} took too long)"
        guard.open(reserved=0)
        return self._run(cheapest, data, guard), how, not guard.closed

    def _run(self, plan: Plan, data: torch.Tensor, guard: Guard | None = None) -> torch.Tensor:
        self.tiles.list_of_parameters = self._folds[: plan.folds]
        self.tiles.use_mirroring, self.tiles.tile_step_size = plan.mirroring, plan.step_size
        self.tiles.guard = guard
        return self.tiles.predict_logits_from_preprocessed_data(data)

    def _passes(self, plan: Plan, data: torch.Tensor) -> int:
        return plan.folds * self.tiles.n_tiles(data, plan.step_size) * self.tiles.passes_per_tile(plan.mirroring)

    def _resampling_seconds(self, properties: dict, data: torch.Tensor) -> float:
        """How long the logits will take to resample to the image's grid: measured on one class, for all of them."""
        configuration = self.tiles.configuration_manager
        target = properties["shape_after_cropping_and_before_resampling"]
        spacing = [properties["spacing"][axis] for axis in self.tiles.plans_manager.transpose_forward]
        current = [*spacing[: len(target) - len(configuration.spacing)], *configuration.spacing]
        begin = self._clock()
        one = np.zeros((1, *data.shape[1:]), dtype=np.float16)
        configuration.resampling_fn_probabilities(one, target, current, spacing)
        return (self._clock() - begin) * self.tiles.label_manager.num_segmentation_heads


class _Tiles(nnUNetPredictor):
    """nnU-Net's predictor, its tiles in a chosen precision and, with a guard, only while there is time."""

    def __init__(self, choices: Choices, device: str, clock: Callable[[], float]):
        super().__init__(device=torch.device(device), allow_tqdm=False)
        self._dtype, self._clock = _DTYPES.get(choices.precision), clock
        self.guard: Guard | None = None
        self._pass_seconds: float | None = None

    def load_folds(self, folder: Path, choices: Choices, name: object) -> list[dict[str, torch.Tensor]]:
        """Make the network and load each fold's weights into it, those of the first last; return them all."""
        initialize(self, folder, choices.folds, choices.checkpoint, name)
        return self.list_of_parameters

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        getattr(self.network, "_orig_mod", self.network).load_state_dict(weights)  # where nnUNet_compile is set

    def n_tiles(self, data: torch.Tensor, step_size: float) -> int:
        self.tile_step_size = step_size
        patch = self.configuration_manager.patch_size
        ndim = len(patch)
        padded = [max(size, edge) for size, edge in zip(data.shape[-ndim:], patch, strict=True)]
        return len(self._internal_get_sliding_window_slicers((*data.shape[1:-ndim], *padded)))

    def passes_per_tile(self, mirroring: bool) -> int:
        return 2 ** len(self.allowed_mirroring_axes or ()) if mirroring else 1

    def warm_up(self) -> None:
        self._pass_seconds = self._time_a_pass()

    def pilot(self, guard: Guard, deadline: float) -> None:
        """Time a pass for the guard; where no time is left for one, what the last one took has to do."""
        if self._pass_seconds is None:
            self.warm_up()
        if deadline - self._clock() > self._pass_seconds:
            self._pass_seconds = self._time_a_pass()
        guard.record(self._pass_seconds, passes=1)

    @torch.inference_mode()
    def _time_a_pass(self) -> float:
        self.load_weights(self.list_of_parameters[0])
        self.network.to(self.device).eval()
        self.use_mirroring = False
        channels = len(channels_of(self.dataset_json))
        tile = torch.zeros((1, channels, *self.configuration_manager.patch_size), device=self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():  # as nnU-Net around its tiles
            begin = self._clock()
            self._finished(tile)
            return self._clock() - begin

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        if self.guard is None:
            return self._logits(x)
        logits = self.guard.run(lambda: self._finished(x), self.passes_per_tile(self.use_mirroring))
        if logits is None:  # zeros are background, of regions too
            return x.new_zeros((x.shape[0], self.label_manager.num_segmentation_heads, *x.shape[2:]))
        return logits

    def _finished(self, x: torch.Tensor) -> torch.Tensor:
        """The logits once they are there: a GPU computes on after the call."""
        logits = self._logits(x)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return logits

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        with self._precision():
            return super()._internal_maybe_mirror_and_predict(x)

    def _precision(self):
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)


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


def _note_of_non_finite(file: Path) -> str:
    count = count_non_finite(file)
    return f"{file} has {count} voxels that are NaN or infinite; they were taken as 0" if count else ""


def _image(labels: np.ndarray, properties: dict, reader, geometry: SimpleITK.ImageFileReader) -> SimpleITK.Image:
    """The labels on the grid of the input: through the model's writer, which undoes what its reader did to the axes."""
    with tempfile.TemporaryDirectory() as folder:
        ending = ".mha" if ".mha" in reader.supported_file_endings else ".nii.gz"  # the former knows any direction
        file = Path(folder) / f"labels{ending}"
        reader.write_seg(labels, str(file), properties)
        image = SimpleITK.ReadImage(file)
    if image.GetSize() != geometry.GetSize():
        raise ValueError(f"the model's writer {type(reader).__name__} turned the axes of {geometry.GetFileName()}")
    image.SetSpacing(geometry.GetSpacing())
    image.SetOrigin(geometry.GetOrigin())
    image.SetDirection(geometry.GetDirection())
    return image
