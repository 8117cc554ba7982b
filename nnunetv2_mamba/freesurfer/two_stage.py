"""Prediction in two stages: the first model finds a region, the second segments a box around it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from .roi import Box, box_of_size, box_with_margin, largest_parts
from .volumes import ENDINGS, grid_difference, read_volume, reoriented, turned_back, voxels, write_volume


@dataclass(frozen=True)
class Options:
    """How models are loaded and run; the names are those of nnU-Net's predictor."""

    use_folds: Sequence[str] | None = None
    checkpoint_name: str = "checkpoint_final.pth"
    tile_step_size: float = 0.5
    use_mirroring: bool = True
    device: str = "cpu"


class Stage:
    """A trained nnU-Net model that segments nibabel images in whatever orientation they are."""

    def __init__(self, predictor: nnUNetPredictor):
        self.predictor = predictor

    @classmethod
    def load(cls, folder: Path, options: Options) -> Stage:
        """Load a model as nnU-Net does, which unpickles its checkpoints: only models that you trust.

        Raises:
            FileNotFoundError: where the folder has no such folds or checkpoint.
            ValueError: for a model that needs the prediction of another one (a cascade's second).
        """
        predictor = nnUNetPredictor(
            tile_step_size=options.tile_step_size,
            use_mirroring=options.use_mirroring,
            device=torch.device(options.device),
        )
        folds = options.use_folds or predictor.auto_detect_available_folds(str(folder), options.checkpoint_name)
        if not folds:
            raise FileNotFoundError(
                f"{folder} has no folder fold_0, fold_1, ... with {options.checkpoint_name}; see -f and -chk"
            )
        predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), options.checkpoint_name)
        if predictor.configuration_manager.previous_stage_name is not None:
            raise ValueError(f"{folder} is the second model of nnU-Net's cascade and cannot predict on its own")
        return cls(predictor)

    @property
    def dataset_json(self) -> dict:
        return self.predictor.dataset_json

    @property
    def orientation(self) -> str | None:
        """In which the model was trained, as ``LIA``; None where it takes images as they are."""
        if "orientation" in self.dataset_json:
            return self.dataset_json["orientation"]
        reader = self.predictor.plans_manager.image_reader_writer_class.__name__
        return "RAS" if reader.endswith("WithReorient") else None

    def turned(self, image: SpatialImage) -> SpatialImage:
        return image if self.orientation is None else reoriented(image, self.orientation)

    def turned_back(self, array: np.ndarray, original: SpatialImage) -> np.ndarray:
        """An array on the grid of ``turned(original)``, on the grid of ``original``."""
        return array if self.orientation is None else turned_back(array, self.orientation, original)

    def segment(self, channels: Sequence[SpatialImage]) -> np.ndarray:
        """The model's labels on the grid of the images, with their axes."""
        images = [self.turned(channel) for channel in channels]
        # nnU-Net has the axes the other way round
        array = np.stack([voxels(image).astype(np.float32).transpose(2, 1, 0) for image in images])
        spacing = [float(zoom) for zoom in images[0].header.get_zooms()[::-1]]
        segmentation = self.predictor.predict_single_npy_array(array, {"spacing": spacing}, None, None, False)
        return self.turned_back(segmentation.transpose(2, 1, 0), channels[0])

    def values(self, structures: Sequence[str]) -> dict[str, list[int]]:
        """The voxel values of structures, given by name or as a number.

        Raises:
            ValueError: for a structure that the model does not segment.
        """
        labels = self.dataset_json["labels"]
        by_number = {str(value): name for name, value in labels.items()}
        result = {}
        for structure in structures:
            name = by_number.get(structure, structure)
            if name not in labels or labels[name] == 0:
                raise ValueError(
                    f"--stage1-labels: the model has no structure {structure!r}; it has "
                    + ", ".join(other for other, value in labels.items() if value != 0)
                )
            value = labels[name]
            result[name] = [value] if isinstance(value, int) else list(value)
        return result

    def freesurfer_ids(self) -> np.ndarray | None:
        """Table from label to FreeSurfer id (uint16); None where the model's data set has no ``freesurfer_ids``."""
        ids = self.dataset_json.get("freesurfer_ids")
        if ids is None:
            return None
        labels = {name: value for name, value in self.dataset_json["labels"].items() if name != "background"}
        unknown = [name for name, value in labels.items() if name not in ids or not isinstance(value, int)]
        if unknown:
            raise ValueError(f"freesurfer_ids in the model's dataset.json has no id of {', '.join(unknown)}")
        table = np.zeros(max(labels.values()) + 1, dtype=np.uint16)
        for name, value in labels.items():
            table[value] = ids[name]
        return table

    def trained_box_mm(self) -> list[float]:
        """Edges of the boxes that the model was trained on, else of its patch; in the order of nnU-Net's axes.

        Raises:
            ValueError: where neither is known, as of a 2D model.
        """
        if "roi_box_mm" in self.dataset_json:
            return list(self.dataset_json["roi_box_mm"])
        configuration = self.predictor.configuration_manager
        if len(configuration.patch_size) != 3:
            raise ValueError("the second model is 2D, so its patch gives no box; use --box or --margin")
        backward = self.predictor.plans_manager.transpose_backward
        edges = np.multiply(configuration.patch_size, configuration.spacing)
        return [float(edges[axis]) for axis in backward]


@dataclass(frozen=True)
class TwoStage:
    """Both models and how they are put together.

    Attributes:
        structures: of the first model, that make up the region.
        box_mm: edges of the box, in the order of nnU-Net's axes; None for what the second model was trained on.
        margin_mm: a box that is the region's and this margin around it, in place of ``box_mm``.
        freesurfer_ids: write these in place of the second model's labels, where its data set has them.
    """

    first: Stage
    second: Stage
    structures: Sequence[str]
    box_mm: Sequence[float] | None = None
    margin_mm: float | None = None
    freesurfer_ids: bool = True

    def segment(self, channels: Sequence[SpatialImage]) -> tuple[np.ndarray, list[str]]:
        """Segment one case, which has an image per input channel, all on one grid.

        Returns:
            The segmentation on the grid of the images (uint8, or uint16 with FreeSurfer ids), and remarks.

        Raises:
            ValueError: where the first model finds nothing.
        """
        images = [self.second.turned(channel) for channel in channels]
        values = self.first.values(self.structures)
        found = self.first.segment(images)
        remarks = [f"{name} was not found" for name, numbers in values.items() if not np.isin(found, numbers).any()]
        if len(remarks) == len(values):
            raise ValueError(f"the first stage found no {', no '.join(values)}")
        region = largest_parts(found, sorted({number for numbers in values.values() for number in numbers}))
        box = self._box(region, images[0])
        remarks.append("box of {} voxels".format(" x ".join(str(side.stop - side.start) for side in box)))
        segmentation = np.zeros(images[0].shape, dtype=np.uint8)
        segmentation[box] = self.second.segment([image.slicer[box] for image in images])
        table = self.second.freesurfer_ids() if self.freesurfer_ids else None
        if table is not None:
            segmentation = table[segmentation]
        return self.second.turned_back(segmentation, channels[0]), remarks

    def _box(self, region: np.ndarray, image: SpatialImage) -> Box:
        zooms = np.array(image.header.get_zooms())
        if self.margin_mm is not None:
            return box_with_margin(region, np.ceil(self.margin_mm / zooms).astype(int).tolist())
        edges = self.box_mm if self.box_mm is not None else self.second.trained_box_mm()
        return box_of_size(region, np.rint(np.array(edges)[::-1] / zooms).astype(int).tolist())


def find_cases(folder: Path, n_channels: int) -> dict[str, list[Path]]:
    """The cases in a folder by name: ``NAME_0000.nii.gz``, ``NAME_0001.nii.gz``, ... or, of one channel, ``NAME.mgz``.

    Raises:
        ValueError: where there are none, or cases that have not each channel once.
    """
    cases: dict[str, dict[int, list[Path]]] = {}
    for file in sorted(folder.iterdir()):
        ending = next((ending for ending in ENDINGS if file.name.endswith(ending)), None)
        if ending is not None:
            stem = file.name[: -len(ending)]
            numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
            name, channel = (numbered[1], int(numbered[2])) if numbered else (stem, 0)
            cases.setdefault(name, {}).setdefault(channel, []).append(file)
    if not cases:
        raise ValueError(f"{folder} has no images ({', '.join(ENDINGS)})")
    wrong = [
        name
        for name, channels in cases.items()
        if sorted(channels) != list(range(n_channels)) or any(len(files) > 1 for files in channels.values())
    ]
    if wrong:
        raise ValueError(
            f"the models take {n_channels} channel(s), one file each (_0000, _0001, ...); not so: {', '.join(wrong)}"
        )
    return {name: [channels[channel][0] for channel in range(n_channels)] for name, channels in cases.items()}


def predict_cases(models: TwoStage, input_folder: Path, output_folder: Path, overwrite: bool = True) -> list[str]:
    """Predict all cases of a folder. A case that fails is said on standard output, and the others go on.

    Args:
        overwrite: predict also what has a file in ``output_folder``.

    Returns:
        The names of the cases that failed.

    Raises:
        ValueError: for models or inputs that do not fit together.
        OSError: where folders cannot be read or made.
    """
    n_channels = [len(stage.dataset_json["channel_names"]) for stage in (models.first, models.second)]
    if n_channels[0] != n_channels[1]:
        raise ValueError(f"the first model takes {n_channels[0]} channel(s), the second {n_channels[1]}")
    models.first.values(models.structures)
    models.second.freesurfer_ids()
    cases = find_cases(input_folder, n_channels[0])
    output_folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, files in cases.items():
        output = output_folder / f"{name}.nii.gz"
        if output.is_file() and not overwrite:
            continue
        start = time.perf_counter()
        try:
            remarks = _predict_case(models, files, output)
        except (OSError, ValueError, RuntimeError) as error:
            failed.append(name)
            print(f"{name}: FAILED: {error}", flush=True)
        else:
            print(f"{name}: {', '.join(remarks)}, {time.perf_counter() - start:.1f} s", flush=True)
    return failed


def _predict_case(models: TwoStage, files: Sequence[Path], output: Path) -> list[str]:
    channels = [read_volume(file) for file in files]
    for file, channel in zip(files[1:], channels[1:], strict=True):
        difference = grid_difference(channels[0], channel)
        if difference:
            raise ValueError(f"{files[0].name} and {file.name} are on different voxel grids: {difference}")
    segmentation, remarks = models.segment(channels)
    header = channels[0].header.copy() if isinstance(channels[0], nibabel.Nifti1Image) else None
    image = nibabel.Nifti1Image(segmentation, channels[0].affine, header)  # a NIfTI header keeps both of its forms
    image.set_data_dtype(segmentation.dtype)
    write_volume(image, output)
    return remarks
