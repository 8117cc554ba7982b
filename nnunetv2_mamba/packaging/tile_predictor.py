"""nnU-Net's predictor, its tiles in a chosen precision and, with a guard, only while there is time."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from .network_loading import LoadedModel
from .time_budget import Effort, Guard

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TilePredictor(nnUNetPredictor):
    """Runs a loaded model over preprocessed images.

    nnU-Net keeps what a run is asked for on its predictor; ``predict`` takes it as arguments and sets it each time.

    Args:
        model: what is run.
        precision: what the network computes in; ``default`` is nnU-Net's choice.
        device: ``cuda``, ``cpu`` or ``mps``.
        clock: gives the time in seconds.
    """

    def __init__(self, model: LoadedModel, precision: str, device: str, clock: Callable[[], float]):
        super().__init__(device=torch.device(device), allow_tqdm=False)
        self.manual_initialization(*model)
        self._model, self._clock = model, clock
        self._guard: Guard | None = None
        dtype = _DTYPES.get(precision)
        self._precision = (
            nullcontext() if dtype is None else torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)
        )

    def predict(self, data: torch.Tensor, effort: Effort, guard: Guard | None = None) -> torch.Tensor:
        """The logits ``(heads, *spatial)`` of preprocessed images ``(channels, *spatial)``, on the CPU.

        Args:
            guard: tiles that it does not let run are background; None for all of them.
        """
        self.list_of_parameters = self._model.weights[: effort.folds]
        self.use_mirroring, self.tile_step_size, self._guard = effort.mirroring, effort.step_size, guard
        return self.predict_logits_from_preprocessed_data(data)

    def passes(self, data: torch.Tensor, effort: Effort) -> int:
        """How many forwards of the network on a tile ``predict`` takes."""
        patch = self.configuration_manager.patch_size
        slices, axes = data.shape[1 : -len(patch)], data.shape[-len(patch) :]  # those of 2D models are patches each
        padded = tuple(max(size, edge) for size, edge in zip(axes, patch, strict=True))
        steps = compute_steps_for_sliding_window(padded, patch, effort.step_size)
        tiles = math.prod(slices) * math.prod(map(len, steps))
        return effort.folds * tiles * self._passes_per_tile(effort.mirroring)

    @torch.inference_mode()
    def time_a_pass(self) -> float:
        """Seconds of a forward of the first fold's network on a tile of zeros."""
        self._model.network.load_state_dict(self._model.weights[0])
        self.network.to(self.device).eval()
        self.use_mirroring = False
        tile = torch.zeros((1, self._model.n_channels, *self.configuration_manager.patch_size), device=self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():  # as nnU-Net around its tiles
            begin = self._clock()
            self._finished(self._logits(tile))
            return self._clock() - begin

    def _passes_per_tile(self, mirroring: bool) -> int:
        return 2 ** len(self.allowed_mirroring_axes or ()) if mirroring else 1

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: torch.Tensor) -> torch.Tensor:
        if self._guard is None:
            return self._logits(x)
        logits = self._guard.run(lambda: self._finished(self._logits(x)), self._passes_per_tile(self.use_mirroring))
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
