"""A model, tried before it is packaged: a case of noise goes through all that a container does with a case.

What only a run shows is found at once, not by a platform: a patch that the network's strides do not divide, arguments
of resampling or normalisation that are of the wrong type, intensities that are missing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK

from nnunetv2_mamba.memory.estimate import GIB, inference_memory
from nnunetv2_mamba.memory.usage import free_memory
from nnunetv2_mamba.ops.backend_selection import ENVIRONMENT_VARIABLE
from nnunetv2_mamba.ops.flops import flop_counter

from ..json_numbers import are_lengths
from ..text import excerpt, short_reason, times
from .case_predictor import CasePredictor
from .inference_settings import InferenceSettings
from .network_loading import LoadedModel, build_network
from .time_budget import Effort

# Some ten times what nnU-Net's largest networks need for their patches: a quarter of an hour on two slow cores.
_MOST_FLOPS = 1e14
# Times the traced memory. Measured: 0.9 for nnU-Net's U-Net and 1.3 for SegMamba, on patches of 96 x 96 x 96.
_MEMORY_MARGIN = 1.5
# Voxels along the axes of the case, after resampling, each another. nnU-Net pads it to a patch.
_EDGES, _LONGEST_EDGE = (8, 9, 10), 64
_FINER = 0.8  # spacing of the case as a share of the training data's, so that there is something to resample


def try_model(folder: Path, settings: InferenceSettings, name: object) -> None:
    """Segment noise with the first fold: one patch, without mirroring, on the CPU. Of the other folds, check the
    weights.

    Args:
        folder: where the model is, as ``copy_for_inference`` writes it.
        settings: what the container is told.
        name: what messages call the model.

    Raises:
        OSError, ValueError, pickle.UnpicklingError: where the container could not, or where one patch needs more memory
            than this machine has or absurdly many operations.
    """
    precision = "default" if settings.gpu else settings.choices.precision  # a GPU's is not the CPU's
    choices = replace(settings.choices, precision=precision, time_budget=None)
    with variables_as_in_the_container():
        predictor = CasePredictor(folder, choices, "cpu", names=name)
        try:
            _check_cost(predictor.model)
            with tempfile.TemporaryDirectory() as scratch:
                files = _write_noise(predictor.model, Path(scratch))
                predictor.segment(files, asked=Effort(folds=1, mirroring=False, step_size=1))
        except _CannotTryError as error:
            raise ValueError(f"{name}/plans.json: {error}") from error
        except Exception as error:  # whatever nnU-Net and PyTorch raise for plans that contradict themselves
            raise ValueError(
                f"{name}/plans.json: a patch of noise cannot be segmented with it: {short_reason(error, 300)}"
            ) from error


@contextmanager
def variables_as_in_the_container() -> Iterator[None]:
    """Run without the variables with which this user asks something of the scan and of nnU-Net, maybe for a GPU."""
    asked = {key: os.environ.pop(key) for key in (ENVIRONMENT_VARIABLE, "nnUNet_compile") if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(asked)


class _CannotTryError(ValueError):
    """The message is a sentence for the user."""


def _check_cost(model: LoadedModel) -> None:
    """Trace a pass without computing it: a stranger's plans may ask for hours, or for all memory there is."""
    patch_size = model.configuration.patch_size
    patch = f"a patch of {times(patch_size)}"
    build_it = partial(build_network, model.trainer, model.plans, model.configuration, model.dataset)
    shape = (1, model.n_channels, *patch_size)
    counter = flop_counter()
    memory = inference_memory(build_it, shape, None, around=counter).total
    flops = counter.get_total_flops()
    if flops > _MOST_FLOPS:
        raise _CannotTryError(
            f"{patch} takes {flops:.0e} operations, more than the {_MOST_FLOPS:.0e} that a model is tried with"
        )
    free = free_memory()
    if _MEMORY_MARGIN * memory > free:
        raise _CannotTryError(
            f"{patch} needs about {_MEMORY_MARGIN * memory / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are "
            "free: the model is tried before it is packaged, so package it on a machine with more"
        )


def _write_noise(model: LoadedModel, folder: Path) -> list[Path]:
    """A few voxels of noise in each channel, a little finer than the training data, on the axes that these had."""
    target = list(model.configuration.spacing)
    training = model.plans.plans.get("original_median_spacing_after_transp")
    if not are_lengths(training):
        training = [1.0] * (3 - len(target)) + target
    spacing = [_FINER * value for value in training]
    slices = [1] * (3 - len(target))  # of 2D configurations: each is a patch
    edges = [
        min(max(round(edge * wanted / given), 1), _LONGEST_EDGE)
        for edge, wanted, given in zip(_EDGES[len(slices) :], target, spacing[len(slices) :], strict=True)
    ]
    for edge, wanted, given in zip(edges, target, spacing[len(slices) :], strict=True):
        if not 1 <= round(edge * given / wanted) <= _LONGEST_EDGE:
            raise _CannotTryError(
                f"'spacing' {excerpt(target)} does not fit the training data's, {excerpt(training)}: a voxel would "
                f"become {given / wanted:.3g} along an axis"
            )
    order = np.argsort(model.plans.transpose_forward)
    shape, spacing = (np.array(values)[order] for values in ([*slices, *edges], spacing))
    random = np.random.default_rng(0)
    files = [folder / f"noise_{channel:04d}.nii.gz" for channel in range(model.n_channels)]
    for file in files:
        noise = random.uniform(1, 255, shape).astype(np.float32)
        noise[0, 0, 0] = 0  # so that there is a voxel outside of what nnU-Net normalises
        image = SimpleITK.GetImageFromArray(noise)
        image.SetSpacing(spacing[::-1].tolist())  # ITK counts the axes from the other end
        SimpleITK.WriteImage(image, file)
    return files
