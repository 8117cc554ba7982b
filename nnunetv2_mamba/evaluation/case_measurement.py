"""One case: a reference and a prediction, read, checked and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from scipy.ndimage import find_objects

from . import metrics
from .boxes import joint_box
from .label_map import LabelMap, read_label_map
from .mask_pair import MaskPair
from .measured_labels import Labels
from .metric_options import PROBABILITIES, MetricOptions
from .probabilities import LabelProbability, read_probabilities


def measure_files(
    reference: Path,
    prediction: Path,
    reader: type[BaseReaderWriter],
    labels: Labels,
    options: MetricOptions,
    probabilities: Path | None = None,
) -> dict:
    """Measure a case, given as two files.

    Args:
        probabilities: nnU-Net's ``.npz``; read where the options ask for metrics of it.

    Returns:
        ``shape`` and ``spacing`` (mm) in the order of the array's axes, and ``metrics``, see ``measure_label_maps``.

    Raises:
        ValueError: for all that is wrong with the files, each named.
    """
    images = read_pair(reference, prediction, reader, labels)
    geometry = images[0].geometry
    array = None
    if PROBABILITIES in options.groups:
        array = read_probabilities(probabilities, (labels.n_heads, *geometry.shape))
    values = measure_label_maps(*images, labels, options, array)
    return {"shape": list(geometry.shape), "spacing": list(geometry.spacing), "metrics": values}


def read_pair(
    reference: Path, prediction: Path, reader: type[BaseReaderWriter], labels: Labels
) -> tuple[LabelMap, LabelMap]:
    """Read a reference and a prediction of one geometry.

    Raises:
        ValueError: for all that is wrong with the files, each named.
    """
    problems, images = [], []
    for file, ignore in ((reference, labels.ignore), (prediction, None)):
        try:
            images.append(read_label_map(file, reader, labels.known, ignore))
        except ValueError as error:
            problems.append(str(error))
    if len(images) == 2:
        images = [image.with_spacing_of(other) for image, other in (images, images[::-1])]
        differences = images[0].geometry.differences(images[1].geometry)
        if differences:
            problems.append(f"{prediction} lies elsewhere than {reference}: {', '.join(differences)}")
    if problems:
        raise ValueError("; ".join(problems))
    return images[0], images[1]


def measure_label_maps(
    reference: LabelMap,
    prediction: LabelMap,
    labels: Labels,
    options: MetricOptions,
    probabilities: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Measure a case, given as two segmentations of the same geometry.

    Args:
        probabilities: heads x the image's axes, needed where the options ask for metrics of it.

    Voxels that the reference ignores belong to no mask. Surfaces are measured along the axes that are longer than one
    voxel: an image of one slice is a plane, not a sheet of which every voxel is surface.

    Returns:
        By nnU-Net's key of the label: nnU-Net's metrics by its names, then ours by those in ``metrics.METRICS``.
    """
    shape = reference.geometry.shape
    axes = [axis for axis, length in enumerate(shape) if length > 1] or [0]
    thickness = float(np.prod(np.delete(reference.geometry.spacing, axes)))
    spacing, shape = (np.array(lengths)[axes] for lengths in (reference.geometry.spacing, shape))
    diagonal = float(np.linalg.norm(spacing * shape))
    counted = int(np.count_nonzero(reference.indices))
    counting = np.where(reference.indices == 0, 0, prediction.indices)
    indices = [array.reshape(shape) for array in (reference.indices, counting)]
    boxes = [find_objects(array, max_label=len(labels.known)) for array in indices]

    if probabilities is not None:
        counts = reference.indices != 0
        true = reference.indices[counts]
    results = {}
    for label in labels.measured:
        inside = np.isin(labels.known, label.values)
        box = joint_box([found[index] for found in boxes for index in np.flatnonzero(inside)], len(axes))
        member = np.concatenate(([False], inside))
        masks = [member[array[box]] for array in indices]
        probability = None
        if probabilities is not None:
            probability = LabelProbability(probabilities[label.head][counts], member[true])
        pair = MaskPair(*masks, tuple(spacing.tolist()), diagonal, thickness, options.lesions, probability)
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
