"""Image, reference and predictions of single cases, in three planes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.ndimage import find_objects

from ...image_files import check_complete
from .style import COLOURS, colour, wrapped

PLANES = ("axial", "coronal", "sagittal")
_MARGIN = 0.15  # around the structures, as a share of their box


@dataclass(frozen=True)
class ShownCase:
    """Files of a case: image, reference, and a prediction by model."""

    name: str
    image: Path
    reference: Path
    predictions: dict[str, Path]


def overlay(case: ShownCase, labels: dict[int, str], captions: dict[str, str]) -> tuple[Figure, str]:
    """Draw a case: planes are rows; image, reference and predictions are columns.

    The slices are those with most of the reference's labels, whatever the predictions look like there. Anatomical left
    is on the right, as in radiology.

    Args:
        labels: names by value, without the background and the label to be ignored.
        captions: a line below the name of each model, such as its Dice in this case.

    Raises:
        ValueError: if the files cannot be read or their shapes differ.
    """
    image = _window(_oriented(case.image)[0])
    reference, spacing = _oriented(case.reference)
    predictions = {name: _oriented(file)[0] for name, file in case.predictions.items()}
    for name, array in [("image", image), *predictions.items()]:
        if array.shape != reference.shape:
            raise ValueError(f"{case.name}: {name} has the shape {array.shape}, the reference {reference.shape}")
    columns = [("image", None), ("reference", reference), *predictions.items()]
    values = sorted(labels)
    masks = (np.isin(array, values) for array in (reference, *predictions.values()))
    shown = next((mask for mask in masks if mask.any()), np.ones(reference.shape, dtype=bool))
    planes = [0, 1, 2] if min(reference.shape) > 1 else [int(np.argmin(reference.shape))]  # an image of one slice
    box = _box(shown)
    colours = ListedColormap([colour(place) for place in range(len(values))])

    sizes = [(side.stop - side.start) * length for side, length in zip(box, spacing, strict=True)]
    heights = [sizes[1] if axis == 0 else sizes[0] for axis in planes]
    widest = max(sizes[1] if axis == 2 else sizes[2] for axis in planes)
    width = min(1.9, 10.5 / len(columns))
    figure = Figure(figsize=(width * len(columns) + 0.4, width * sum(heights) / widest + 1.0), layout="constrained")
    axes = figure.subplots(len(planes), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    for number, (row, axis) in enumerate(zip(axes, planes, strict=True)):
        rest = tuple(other for other in range(3) if other != axis)
        index = int(shown.sum(axis=rest).argmax())
        cut = tuple(index if other == axis else box[other] for other in range(3))
        look = {"aspect": spacing[rest[0]] / spacing[rest[1]], "origin": "upper" if axis == 0 else "lower"}
        for panel, (name, mask) in zip(row, columns, strict=True):
            panel.imshow(image[cut], cmap="gray", vmin=0, vmax=1, **look)
            if mask is not None:
                found = np.ma.masked_where(~np.isin(mask[cut], values), np.searchsorted(values, mask[cut]))
                style = {"cmap": colours, "vmin": -0.5, "vmax": len(values) - 0.5, "interpolation": "nearest"}
                panel.imshow(found, alpha=0.55, **style, **look)
            panel.set(xticks=[], yticks=[])
            panel.grid(False)
            panel.spines[:].set_visible(False)
            if number == 0:
                panel.set_title(wrapped(name, 18) + f"\n{captions.get(name, '')}".rstrip(), fontsize=7.5)
        row[0].set_ylabel(PLANES[axis])
    handles = [Patch(color=colours(place), label=labels[value]) for place, value in enumerate(values)]
    if len(handles) <= len(COLOURS):
        figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)), frameon=False)
    scores = "; ".join(f"{name} {caption}" for name, caption in captions.items())
    return figure, f"Case {case.name}: image, reference and predictions in {len(planes)} planes. {scores}."


def _oriented(file: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Read voxels and their sizes, with the axes up, to the back and to the left where the image has a place.

    Raises:
        ValueError: for a file that is damaged or cannot be read, naming it.
    """
    check_complete(file)
    try:
        image = SimpleITK.ReadImage(str(file))
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = SimpleITK.VectorIndexSelectionCast(image, 0)
    if image.GetDimension() == 2:
        image = SimpleITK.JoinSeries(image)
    image = SimpleITK.DICOMOrient(image, "LPS")
    return SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1]


def _window(image: np.ndarray) -> np.ndarray:
    """Bring grey values to the range from 0 to 1, cutting the extremes."""
    values = image.astype(np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    return ((values - low) / max(float(high - low), 1e-6)).clip(0, 1)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Find a box around all structures, with a margin."""
    (bounds,) = find_objects(mask.astype(np.uint8))
    sides = []
    for side, length in zip(bounds, mask.shape, strict=True):
        margin = 3 + int(_MARGIN * (side.stop - 1 - side.start))
        sides.append(slice(max(0, side.start - margin), min(length, side.stop + margin)))
    return tuple(sides)
