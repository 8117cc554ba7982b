"""nnU-Net's sliding window with little memory: in a chosen precision and, with a guard, only while there is time.

nnU-Net adds tiles up in an array of all logits of the case. They come in the order of the first axis, so an array as
high as a patch is enough: what lies before the next row of tiles is finished and stored. Every voxel's sum has the same
terms in the same order and precision as nnU-Net's, so that the logits are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from tqdm import tqdm

from .network_loading import LoadedModel
from .stored_logits import StoredLogits
from .time_budget import Effort, Guard

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_REASON = "its training has diverged, or it needs to compute in fp32"


class Preprocessed(NamedTuple):
    """A case on the model's grid, on the CPU.

    Attributes:
        images: ``(channels, *spatial)``.
        previous: of a cascade, the labels ``spatial`` that the stage before gave.
    """

    images: torch.Tensor
    previous: torch.Tensor | None = None


class TilePredictor(nnUNetPredictor):
    """Runs a loaded model over preprocessed images.

    nnU-Net keeps what a run is asked for on its predictor; ``predict`` takes it as arguments and sets it each time.

    Args:
        model: what is run.
        precision: what the network computes in; ``default`` is nnU-Net's choice.
        device: ``cuda``, ``cpu`` or ``mps``.
        clock: gives the time in seconds.
        progress: show a bar.

    Attributes:
        cost_of_a_pass: in the unit of the time budget, where several models share one.
    """

    def __init__(
        self, model: LoadedModel, precision: str, device: str, clock: Callable[[], float], progress: bool = False
    ):
        on_gpu = device == "cuda"
        super().__init__(device=torch.device(device), allow_tqdm=progress, perform_everything_on_device=on_gpu)
        self.manual_initialization(*model)
        self._model, self._clock = model, clock
        self._guard: Guard | None = None
        self.cost_of_a_pass = 1.0
        dtype = DTYPES.get(precision)
        self._precision = (
            nullcontext() if dtype is None else torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
        )

    @torch.inference_mode()
    def predict(self, case: Preprocessed, effort: Effort, logits: StoredLogits, guard: Guard | None = None) -> int:
        """Store the logits of a case, averaged over the folds.

        Args:
            logits: what is written, ``(heads, *spatial)``.
            guard: tiles that it does not let run are background; None for all of them.

        Returns:
            How many voxels of the model's grid have NaN among their logits.

        Raises:
            FloatingPointError: for infinite logits, which nnU-Net's predictor refuses, and where all voxels have NaN.
        """
        self.use_mirroring, self.tile_step_size, self._guard = effort.mirroring, effort.step_size, guard
        self.network.to(self.device).eval()
        patch = self.configuration_manager.patch_size
        images, inside = pad_nd_image(case.images, patch, "constant", {"value": 0}, True)
        previous = None if case.previous is None else pad_nd_image(case.previous, patch, "constant", {"value": 0})
        padded = Preprocessed(images, previous)
        weights = self._model.weights[: effort.folds]
        without_numbers = 0
        for fold, state in enumerate(weights):
            last = fold == len(weights) - 1
            self._model.network.load_state_dict(state)
            for index, plane in self._planes(padded, inside[1:]):
                if fold:
                    plane += logits.read_plane(index)
                if 0 < fold and last:
                    plane /= len(weights)
                if last and not _is_finite(plane):  # which NaN of earlier folds has reached, too
                    without_numbers += int(torch.isnan(plane).any(0).sum())
                logits.write_plane(index, plane)
        if without_numbers == math.prod(case.images.shape[1:]):
            raise FloatingPointError(f"the network gives NaN alone: {_REASON}")
        return without_numbers

    def cost(self, shape: Sequence[int], effort: Effort) -> float:
        """What ``predict`` takes for a case of this shape on the model's grid: forwards on a tile, times the cost of
        each."""
        patch = self.configuration_manager.patch_size
        slices, axes = shape[: -len(patch)], shape[-len(patch) :]  # those of 2D models are patches each
        padded = tuple(max(size, edge) for size, edge in zip(axes, patch, strict=True))
        steps = compute_steps_for_sliding_window(padded, patch, effort.step_size)
        tiles = math.prod(slices) * math.prod(map(len, steps))
        folds = len(self._model.weights[: effort.folds])
        return folds * tiles * self._cost_of_a_tile(effort.mirroring)

    @torch.inference_mode()
    def time_a_pass(self) -> float:
        """Seconds of a forward of the first fold's network on a tile of zeros."""
        self._model.network.load_state_dict(self._model.weights[0])
        self.network.to(self.device).eval()
        self.use_mirroring = False
        tile = torch.zeros((1, self._model.n_inputs, *self.configuration_manager.patch_size), device=self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():  # as nnU-Net around its tiles
            begin = self._clock()
            self._finished(self._logits(tile))
            return self._clock() - begin

    def _planes(self, case: Preprocessed, inside: tuple[slice, ...]) -> Iterator[tuple[int, torch.Tensor]]:
        """One fold's logits of a padded case at each index of the first axis, in order; ``inside`` is without padding.

        A plane ``(heads, *spatial[1:])`` is good until the next one is taken.
        """
        patch = self.configuration_manager.patch_size
        flat = len(patch) == 2  # such models see one plane at a time
        height = 1 if flat else patch[0]
        spatial = case.images.shape[1:]
        shape = (height, *spatial[1:])
        device = self._device_of_sums(math.prod(shape))
        sums = torch.zeros((self.label_manager.num_segmentation_heads, *shape), dtype=torch.half, device=device)
        weights = torch.zeros(shape, dtype=torch.half, device=device)
        gaussian = compute_gaussian(tuple(patch), sigma_scale=1 / 8, value_scaling_factor=10, device=device)
        tiles = self._internal_get_sliding_window_slicers(spatial)
        rows = [(start, list(row)) for start, row in groupby(tiles, lambda tile: tile[1] if flat else tile[1].start)]
        ends = [start for start, _ in rows[1:]] + [spatial[0]]
        with tqdm(total=len(tiles), disable=not self.allow_tqdm) as bar:
            for (start, row), end in zip(rows, ends, strict=True):
                for tile in row:
                    place = (0 if flat else slice(None), *tile[2:])
                    x = self._network_input(case, tile)[None].contiguous().to(self.device)
                    with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
                        prediction = self._internal_maybe_mirror_and_predict(x)[0].to(device)
                    prediction *= gaussian
                    sums[(slice(None), *place)] += prediction
                    weights[place] += gaussian
                    bar.update()
                for index in range(start, end):
                    plane = sums[:, index - start]
                    plane /= weights[index - start]
                    self._check_finite(plane)
                    if inside[0].start <= index < inside[0].stop:
                        yield index - inside[0].start, plane[:, inside[1], inside[2]].cpu()
                _move_down(sums, end - start, axis=1)
                _move_down(weights, end - start, axis=0)

    def _network_input(self, case: Preprocessed, tile: tuple[slice | int, ...]) -> torch.Tensor:
        """The images' channels and one for each label of the stage before, which are made for a tile alone: for the
        whole case they would be larger than the logits."""
        images = case.images[tile]
        if case.previous is None:
            return images
        labels = case.previous[tile[1:]].numpy()
        channels = convert_labelmap_to_one_hot(labels, self.label_manager.foreground_labels, np.float32)
        return torch.cat((images, torch.from_numpy(channels)))

    def _device_of_sums(self, voxels: int) -> torch.device:
        """The GPU where it has room for them and thrice as much for the network; else the CPU."""
        if self.device.type != "cuda":
            return torch.device("cpu")
        bytes_needed = 2 * voxels * self.label_manager.num_segmentation_heads
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # of what came before
        room = torch.cuda.mem_get_info(self.device)[0] + kept
        return self.device if 4 * bytes_needed <= room else torch.device("cpu")

    def _check_finite(self, plane: torch.Tensor) -> None:
        if not _is_finite(plane) and torch.any(torch.isinf(plane)):
            raise FloatingPointError(
                "the network gives logits that are infinite, or too large for the 16 bits in which nnU-Net adds tiles "
                f"up: {_REASON}"
            )

    def _cost_of_a_tile(self, mirroring: bool) -> float:
        passes = 2 ** len(self.allowed_mirroring_axes or ()) if mirroring else 1
        return passes * self.cost_of_a_pass

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        if self._guard is None:
            return self._logits(x)
        logits = self._guard.run(lambda: self._finished(self._logits(x)), self._cost_of_a_tile(self.use_mirroring))
        if logits is None:  # zeros are background, of regions too
            return x.new_zeros((x.shape[0], self.label_manager.num_segmentation_heads, *x.shape[2:]))
        return logits

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        with self._precision:
            return super()._internal_maybe_mirror_and_predict(x)

    def _finished(self, logits: torch.Tensor) -> torch.Tensor:
        """The same, computed: a GPU computes on after the call."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return logits


def _is_finite(array: torch.Tensor) -> bool:
    """In one pass, ten times as fast as asking of every number: NaN and infinity reach the extremes."""
    return bool(torch.stack(array.aminmax()).isfinite().all())


def _move_down(array: torch.Tensor, steps: int, axis: int) -> None:
    """Shift along an axis in place, zeros from above; index by index, which needs no second array."""
    size = array.shape[axis]
    for index in range(size - steps):
        array.select(axis, index).copy_(array.select(axis, index + steps))
    array.narrow(axis, size - steps, steps).zero_()
