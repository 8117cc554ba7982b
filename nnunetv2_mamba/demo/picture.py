"""One picture of image, truth and prediction."""

from pathlib import Path

import numpy as np
import SimpleITK
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#228833", "#aa3377")
_TEXT = 17  # points: to be read where the picture is as wide as a phone


def draw(channels: dict[str, Path], truth: Path, prediction: Path, names: dict[int, str], output: Path) -> None:
    """Write a PNG of the axial slice that shows the most of all structures, each in proportion to its size.

    Args:
        channels: image files by the title to print above them.
        truth, prediction: label files of the same geometry.
        names: what each label is called: 1, 2, ... in this order, at most as many as there are ``COLOURS``.
        output: the PNG to write.
    """
    width, height, _ = SimpleITK.ReadImage(str(truth)).GetSpacing()
    index = _slice_to_show(_voxels(truth), list(names))
    shown = [(title, _voxels(path)[index], None) for title, path in channels.items()]
    first = shown[0][1]
    shown += [("truth", first, _voxels(truth)[index]), ("prediction", first, _voxels(prediction)[index])]

    figure = Figure(figsize=(2.6 * len(shown), 3.9), facecolor="black", layout="constrained")
    overlay = {"cmap": ListedColormap(COLOURS[: len(names)]), "vmin": 1, "vmax": len(names), "alpha": 0.55}
    for panel, (title, values, mask) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        panel.imshow(values, cmap="gray", interpolation="bicubic", aspect=height / width)
        if mask is not None:
            visible = np.ma.masked_equal(mask, 0)
            panel.imshow(visible, **overlay, interpolation="nearest", aspect=height / width)
        panel.set_title(title, color="white", fontsize=_TEXT)
        panel.set_axis_off()
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, names.values(), strict=False)]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=len(patches),
        frameon=False,
        labelcolor="white",
        fontsize=_TEXT,
    )
    figure.savefig(output, dpi=120, bbox_inches="tight")


def _voxels(file: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))


def _slice_to_show(truth: np.ndarray, labels: list[int]) -> int:
    areas = np.stack([(truth == label).sum(axis=(1, 2)) for label in labels])
    return int((areas / areas.max(axis=1, keepdims=True).clip(1)).sum(axis=0).argmax())
