"""One case: a reference and a prediction, read, checked and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from scipy.ndimage import find_objects

from . import metrics
from .label_map import LabelMap, read_label_map
from .mask_pair import MaskPair
from .measured_labels import Labels
from .metric_options import MetricOptions


def measure_files(
    reference: Path, prediction: Path, reader: type[BaseReaderWriter], labels: Labels, options: MetricOptions
) -> dict:
    """Measure a case, given as two files.

    Returns:
        ``shape`` and ``spacing`` (mm) in the order of the array's axes, and ``metrics``, see ``measure_label_maps``.

    Raises:
        ValueError: for all that is wrong with the two files, each named.
    """
    problems, images = [], []
    for file, ignore in ((reference, labels.ignore), (prediction, None)):
        try:
            images.append(read_label_map(file, reader, labels.known, ignore))
        except ValueError as error:
            problems.append(str(error))
    if len(images) == 2:
        differences = images[0].geometry.differences(images[1].geometry)
        if differences:
            problems.append(f"{prediction} lies elsewhere than {reference}: {', '.join(differences)}")
    if problems:
        raise ValueError("; ".join(problems))
    geometry = images[0].geometry
    values = measure_label_maps(*images, labels, options)
    return {"shape": list(geometry.shape), "spacing": list(geometry.spacing), "metrics": values}


def measure_label_maps(
    reference: LabelMap, prediction: LabelMap, labels: Labels, options: MetricOptions
) -> dict[str, dict[str, float]]:
    """Measure a case, given as two segmentations of the same geometry.

    Voxels that the reference ignores belong to no mask. Surfaces are measured along the axes that are longer than one
    voxel: an image of one slice is a plane, not a sheet of which every voxel is surface.

    Returns:
        By nnU-Net's key of the label: nnU-Net's metrics by its names, then ours by those in ``metrics.METRICS``.
    """
    shape = reference.geometry.shape
    axes = [axis for axis, length in enumerate(shape) if length > 1] or [0]
    spacing, shape = (np.array(lengths)[axes] for lengths in (reference.geometry.spacing, shape))
    diagonal = float(np.linalg.norm(spacing * shape))
    counted = int(np.count_nonzero(reference.indices))
    counting = np.where(reference.indices == 0, 0, prediction.indices)
    indices = [array.reshape(shape) for array in (reference.indices, counting)]
    boxes = [find_objects(array, max_label=len(labels.known)) for array in indices]

    results = {}
    for label in labels.measured:
        inside = np.isin(labels.known, label.values)
        box = _joint([found[index] for found in boxes for index in np.flatnonzero(inside)], len(axes))
        member = np.concatenate(([False], inside))
        masks = [member[array[box]] for array in indices]
        pair = MaskPair(*masks, tuple(spacing.tolist()), diagonal)
        values = metrics.measure_masks(pair, options)
        results[label.key] = {
            "Dice": values["dice"],
            "IoU": values["iou"],
            "FP": pair.fp,
            "TP": pair.tp,
            "FN": pair.fn,
            "TN": counted - pair.tp - pair.fn - pair.fp,
            "n_pred": pair.n_prediction,
            "n_ref": pair.n_reference,
            **values,
        }
    return results


def _joint(boxes: list[tuple[slice, ...] | None], n_axes: int) -> tuple[slice, ...]:
    """Find the smallest box around some, of which None are empty; it is one voxel if all are."""
    boxes = [box for box in boxes if box is not None] or [(slice(0, 1),) * n_axes]
    return tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in zip(*boxes, strict=True))
