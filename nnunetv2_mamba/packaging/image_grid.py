"""Arrays of a case as images that lie exactly where the input lies."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from .image_io import FileGrid


class ImageGrid:
    """The grid of an image, for arrays whose axes are as a reader of nnU-Net gives them.

    Args:
        reader: of the model.
        properties: of the case, as the reader gives them.
        geometry: of the image.
    """

    def __init__(self, reader: BaseReaderWriter, properties: dict[str, Any], geometry: FileGrid):
        self.properties, self._geometry = properties, geometry
        self._reader = type(reader).__name__
        self._axes, self._directions = _turn(reader, properties)

    def image(self, array: np.ndarray) -> SimpleITK.Image:
        """An array of the whole image, in its type, with size, spacing, origin and direction of the file.

        Raises:
            ValueError: where the reader's writer gives the axes in another order than the file has them.
        """
        image = SimpleITK.GetImageFromArray(array.transpose(self._axes)[self._directions])
        if image.GetSize() != self._geometry.size:
            raise ValueError(f"the model's writer {self._reader} turned the axes of {self._geometry.file}")
        image.SetSpacing(self._geometry.spacing)
        image.SetOrigin(self._geometry.origin)
        image.SetDirection(self._geometry.direction)
        return image


def _turn(reader: BaseReaderWriter, properties: dict[str, Any]) -> tuple[list[int], tuple[slice, ...]]:
    """What the writer, which undoes what its reader did, does to the axes: their order, then the direction of each.

    It writes labels only, so it is tried with a few, of which no two axes have the same length.
    """
    tried = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    with tempfile.TemporaryDirectory() as folder:
        ending = ".mha" if ".mha" in reader.supported_file_endings else ".nii.gz"  # the former knows any direction
        file = Path(folder) / f"tried{ending}"
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net misses the origin of an image of the case's size
            reader.write_seg(tried, str(file), properties)
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))
    axes = [tried.shape.index(length) for length in found.shape]
    for directions in itertools.product((slice(None), slice(None, None, -1)), repeat=3):
        if np.array_equal(tried.transpose(axes)[directions], found):
            return axes, directions
    raise ValueError(f"the model's writer {type(reader).__name__} changes labels")
