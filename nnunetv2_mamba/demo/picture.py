"""One picture of image, truth and prediction."""

from pathlib import Path

import numpy as np
import SimpleITK
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#228833", "#aa3377")


def draw(channels: dict[str, Path], truth: Path, prediction: Path, names: dict[int, str], output: Path) -> None:
    """Write a PNG of the axial slice that shows the most of all structures, each in proportion to its size.

    Args:
        channels: image files by the title to print above them.
        truth, prediction: label files of the same geometry.
        names: what each label is called: 1, 2, ... in this order, at most as many as there are ``COLOURS``.
        output: the PNG to write.
    """
    images = {title: SimpleITK.ReadImage(str(path)) for title, path in channels.items()}
    masks = {"truth": _voxels(SimpleITK.ReadImage(str(truth)))}
    masks["prediction"] = _voxels(SimpleITK.ReadImage(str(prediction)))
    index = _slice_to_show(masks["truth"], list(names))
    width, height, _ = next(iter(images.values())).GetSpacing()
    slices = {title: _voxels(image)[index] for title, image in images.items()}

    figure = Figure(figsize=(3 * (len(slices) + len(masks)), 4.2), layout="constrained")
    panels = iter(figure.subplots(1, len(slices) + len(masks)))
    for title, values in slices.items():
        _show(next(panels), title, values, height / width)
    for title, mask in masks.items():
        panel = next(panels)
        _show(panel, title, next(iter(slices.values())), height / width)
        _overlay(panel, mask[index], len(names), height / width)
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, names.values(), strict=False)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.savefig(output, dpi=120, bbox_inches="tight")


def _voxels(image: SimpleITK.Image) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(image)


def _slice_to_show(truth: np.ndarray, labels: list[int]) -> int:
    areas = np.stack([(truth == label).sum(axis=(1, 2)) for label in labels])
    return int((areas / areas.max(axis=1, keepdims=True).clip(1)).sum(axis=0).argmax())


def _show(panel: Axes, title: str, values: np.ndarray, aspect: float) -> None:
    panel.imshow(values, cmap="gray", aspect=aspect)
    panel.set_title(title)
    panel.set_axis_off()


def _overlay(panel: Axes, mask: np.ndarray, n_labels: int, aspect: float) -> None:
    colours = ListedColormap(COLOURS[:n_labels])
    visible = np.ma.masked_equal(mask, 0)
    panel.imshow(visible, cmap=colours, vmin=1, vmax=n_labels, alpha=0.7, interpolation="nearest", aspect=aspect)
