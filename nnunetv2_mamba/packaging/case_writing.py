"""The files of a case: each appears complete, and none where the case fails."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK

from ..evaluation.measured_labels import Labels
from ..files import remove_left_behind, written_whole
from .case_predictor import CasePredictor, SegmentedCase
from .image_grid import ImageGrid
from .image_io import lie_as, write_image, write_scaled_nifti
from .outputs import ENCODINGS, NPZ, PROBABILITY, PROPERTIES, VOLUMES, Output
from .platforms import CaseFiles


def write_case(
    case: CaseFiles, predictor: CasePredictor, started: float, is_wanted: Callable[[], bool]
) -> SegmentedCase:
    """Segment a case and write its files; the segmentation gets its name last, when the others have theirs.

    Probability maps are written as they come, one in memory at a time.

    Args:
        started: as of ``CasePredictor.segment``.
        is_wanted: asked before the files get their names.

    Raises:
        OSError, ValueError, FloatingPointError: for what is wrong with the case or its files; then there are none.
    """
    with _written_together((case.output, *(output.path for output in case.more_outputs))) as (file, *more):
        wanted = list(zip(case.more_outputs, more, strict=True))
        named = {label.name: label for label in predictor.labels.measured} if wanted else {}
        if unknown := [output.label for output, _ in wanted if output.label and output.label not in named]:
            raise ValueError(f"the model has no label {unknown[0]!r}, of which a file is asked for: {', '.join(named)}")
        with ExitStack() as open_files:
            probabilities = []
            for output, path in wanted:
                if output.kind == PROBABILITY:
                    probabilities.append((named[output.label].head, partial(_write_map, file=path, output=output)))
                elif output.kind == NPZ:
                    n_heads = predictor.labels.n_heads
                    write = open_files.enter_context(_npz(path, n_heads))
                    probabilities += [(head, partial(write, head)) for head in range(n_heads)]
                elif output.kind == PROPERTIES:
                    probabilities.append((0, partial(_write_properties, file=path)))
            result = predictor.segment(case.images, started, previous=case.previous, probabilities=probabilities)
        if not is_wanted():  # the output folder may be the next case's by now
            raise ValueError("whoever asked waits no longer, so nothing is written")
        for output, path in wanted:
            if output.kind == VOLUMES:
                volumes = volumes_ml(result.image, predictor.labels)
                content = volumes[output.label] if output.label else volumes
                path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            elif output.kind == PROBABILITY:
                lie_as(path, case.images[0])
        write_image(result.image, file, case.output)
        lie_as(file, case.images[0])
    return result


def volumes_ml(image: SimpleITK.Image, labels: Labels) -> dict[str, float]:
    """The volume in ml of every label or region in a segmentation, by name."""
    voxels = np.bincount(SimpleITK.GetArrayViewFromImage(image).ravel(), minlength=max(labels.known) + 1)
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000  # directions of an image are at right angles
    return {label.name: float(voxels[list(label.values)].sum()) * voxel_ml for label in labels.measured}


@contextmanager
def _written_together(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Give temporary names; the files get their own where the block succeeds, the first one last."""
    with ExitStack() as stack:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        yield [stack.enter_context(written_whole(file)) for file in files]


def _write_map(probability: np.ndarray, grid: ImageGrid, file: Path, output: Output) -> None:
    largest = ENCODINGS[output.encoding]
    if largest is None:
        write_image(grid.image(probability), file, output.path)
        return
    whole_numbers = np.rint(probability * largest).astype(output.encoding)
    remove_left_behind(output.path.with_name(output.path.name.removesuffix(".gz")))  # what it compresses
    write_scaled_nifti(grid.image(whole_numbers), 1 / largest, file, output.path)


@contextmanager
def _npz(file: Path, n_heads: int) -> Iterator[Callable[[int, np.ndarray, ImageGrid], None]]:
    """Give what writes one head after another, as ``numpy.savez_compressed`` writes an array of all."""
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as stream,
    ):

        def write(head: int, probability: np.ndarray, _: ImageGrid) -> None:
            if head == 0:
                header = {"shape": (n_heads, *probability.shape), "fortran_order": False}
                np.lib.format.write_array_header_1_0(stream, {**header, "descr": probability.dtype.str})
            stream.write(np.ascontiguousarray(probability).data)

        yield write


def _write_properties(_: np.ndarray, grid: ImageGrid, file: Path) -> None:
    """What nnU-Net's ensembling needs of a case to write a segmentation."""
    with file.open("wb") as stream:
        pickle.dump(grid.properties, stream)
