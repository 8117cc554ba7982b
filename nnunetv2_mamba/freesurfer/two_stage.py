"""Prediction in two stages: the first model finds a region, the second segments a box around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from ..files import read_json_object
from ..json_numbers import are_lengths
from ..nnunet.model_folds import find_folds
from ..regions import values_of
from ..text import excerpt, times
from ..untrusted.plans import check_untrusted_plans
from .roi import Box, box_of_size, box_with_margin, largest_parts
from .scans import Scan, read_scan

_ORIENTATIONS = ["".join(ends) for axes in permutations(("LR", "AP", "IS")) for ends in product(*axes)]
_LONGEST_MESSAGE = 500  # of nnU-Net's: one of missing weights names them all


class Stage:
    """A trained nnU-Net model, and how its images are read.

    Attributes:
        predictor: nnU-Net's.
        dataset_json: of the data set that the model was trained on.
        reader: nnU-Net's class that read the images the model was trained on.
        orientation: in which the model was trained, as ``LIA``; None where it takes images as the reader gives them.

    Raises:
        ValueError: for a model of images that are no volumes in space (PNG, TIFF), or of an unknown orientation.
    """

    def __init__(self, predictor: nnUNetPredictor):
        self.predictor, self.dataset_json = predictor, predictor.dataset_json
        name = predictor.plans_manager.image_reader_writer_class.__name__  # all that a stand-in for nnU-Net's has
        self.reader = recursive_find_reader_writer_by_name(name)
        if ".nii.gz" not in self.reader.supported_file_endings:
            raise ValueError(f"a model of images that nnU-Net's {name} reads cannot be used: it knows no NIfTI")
        self.orientation = None if name.endswith("WithReorient") else self.dataset_json.get("orientation")
        if self.orientation not in (None, *_ORIENTATIONS):
            raise ValueError(
                f"the model's dataset.json names an orientation that is none, as LIA is: {self.orientation!r}"
            )

    @classmethod
    def load(
        cls, folder: Path, use_folds: Sequence[str] | None, checkpoint_name: str, **predictor_options: object
    ) -> Stage:
        """Load a model as nnU-Net does, which unpickles its checkpoints: only models that you trust.

        Args:
            use_folds: None for all numbered ones that have such a checkpoint, else ``all``.
            predictor_options: of nnU-Net's predictor, such as ``device`` and ``use_mirroring``.

        Raises:
            FileNotFoundError: where the folder has no such folds or checkpoint.
            ValueError: for a folder that is no model of nnU-Net's, a model that needs the prediction of another one (a
                cascade's second), or plans that name what no plans need.
        """
        predictor = nnUNetPredictor(**predictor_options)
        folds = find_folds(folder, use_folds, checkpoint_name)
        _check_documents(folder)
        try:
            predictor.initialize_from_trained_model_folder(str(folder), folds, checkpoint_name)
        except OSError:
            raise
        except Exception as error:  # of a folder in which something is missing or does not fit, nnU-Net raises anything
            says = " ".join(str(error).split())[:_LONGEST_MESSAGE]
            raise ValueError(f"{folder} is no model that nnU-Net can load: {type(error).__name__}: {says}") from error
        if predictor.configuration_manager.previous_stage_name is not None:
            raise ValueError(f"{folder} is the second model of nnU-Net's cascade and cannot predict on its own")
        return cls(predictor)

    @property
    def n_channels(self) -> int:
        """The number of the images' channels; nnU-Net takes the older key ``modality``, too."""
        return len(self.dataset_json.get("modality") or self.dataset_json["channel_names"])

    def turned(self, scan: Scan) -> Scan:
        """Turn a scan that this model's reader has read as the model was trained."""
        return scan if self.orientation is None else scan.turned_to(self.orientation)

    def segment(self, array: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Segment an array of images: labels (z, y, x) in uint8, or uint16 of more than 254, as nnU-Net does.

        Args:
            array: (channels, z, y, x), float32.
            spacing: of z, y, x.
        """
        images = np.ascontiguousarray(array)
        return self.predictor.predict_single_npy_array(images, {"spacing": list(spacing)}, None, None, False)

    def values(self, structures: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Look up the voxel values of structures, given by name or as a number.

        Raises:
            ValueError: for a structure that the model does not segment.
        """
        labels = self._labels()
        by_number = {str(values[0]): name for name, values in labels.items() if len(values) == 1}
        result = {}
        for structure in structures:
            name = structure if structure in labels else by_number.get(structure)
            if name is None:
                raise ValueError(
                    f"--stage1-labels: the model has no structure {structure!r}; it has {', '.join(labels)}"
                )
            result[name] = labels[name]
        return result

    def freesurfer_ids(self) -> np.ndarray | None:
        """Make a table from label to FreeSurfer id (uint16), or None where the data set has no ``freesurfer_ids``."""
        ids = self.dataset_json.get("freesurfer_ids")
        if ids is None:
            return None
        labels = self._labels()
        unknown = [name for name, values in labels.items() if name not in ids or len(values) != 1]
        if unknown:
            raise ValueError(f"freesurfer_ids in the model's dataset.json has no id of {', '.join(unknown)}")
        highest = np.iinfo(np.uint16).max
        wrong = [name for name in labels if not isinstance(ids[name], int) or not 0 <= ids[name] <= highest]
        if wrong:
            raise ValueError(
                f"freesurfer_ids in the model's dataset.json is not from 0 to {highest}: {', '.join(wrong)}"
            )
        table = np.zeros(max((value for (value,) in labels.values()), default=0) + 1, dtype=np.uint16)
        for name, (value,) in labels.items():
            table[value] = ids[name]
        return table

    def _labels(self) -> dict[str, tuple[int, ...]]:
        """Read every structure's values; neither the background nor what the training ignored is one."""
        labels = {name: values_of(value) for name, value in self.dataset_json["labels"].items() if name != "ignore"}
        return {name: values for name, values in labels.items() if values != (0,)}

    def trained_box_mm(self) -> list[float]:
        """Find the edges of the boxes the model was trained on, else of its patch, in the order of nnU-Net's axes.

        Raises:
            ValueError: where neither is known, as of a 2D model, or ``roi_box_mm`` is no box.
        """
        box = self.dataset_json.get("roi_box_mm")
        if box is not None:
            if not are_lengths(box):
                raise ValueError(
                    f"roi_box_mm in the model's dataset.json must be three lengths above 0, not {excerpt(box)}"
                )
            return box
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

    def check(self) -> int:
        """Check that the models fit together; returns the number of their input channels.

        Raises:
            ValueError: where they take different numbers of channels, or lack structures, ids or a box.
        """
        n_channels = self.first.n_channels
        if n_channels != self.second.n_channels:
            raise ValueError(f"the first model takes {n_channels} channel(s), the second {self.second.n_channels}")
        self.first.values(self.structures)
        self.second.freesurfer_ids()
        if self.box_mm is None and self.margin_mm is None:
            self.second.trained_box_mm()
        return n_channels

    def segment(self, files: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
        """Segment one case, which has a file per input channel, all on one grid.

        Returns:
            The segmentation on the grid of the files, axes x, y, z (FreeSurfer's ids in uint16, or labels in nnU-Net's
            type), and remarks.

        Raises:
            ValueError: for files that cannot be read (see ``scans.read_scan``); where the first model finds nothing.
        """
        scans = {reader: read_scan(files, reader) for reader in dict.fromkeys((self.first.reader, self.second.reader))}
        first, second = (stage.turned(scans[stage.reader]) for stage in (self.first, self.second))
        values = self.first.values(self.structures)
        found = second.from_file(first.to_file(self.first.segment(first.array, first.spacing)))
        remarks = [f"{name} was not found" for name, numbers in values.items() if not np.isin(found, numbers).any()]
        if len(remarks) == len(values):
            raise ValueError(f"the first stage found no {', no '.join(values)}")
        region = largest_parts(found, sorted({number for numbers in values.values() for number in numbers}))
        box = self._box(region, second.spacing)
        remarks.append(f"box of {times(side.stop - side.start for side in reversed(box))} voxels")
        part = self.second.segment(second.array[(slice(None), *box)], second.spacing)
        segmentation = np.zeros(region.shape, dtype=part.dtype)
        segmentation[box] = part
        table = self.second.freesurfer_ids() if self.freesurfer_ids else None
        if table is not None:
            segmentation = table[segmentation]
        return second.to_file(segmentation), remarks

    def _box(self, region: np.ndarray, spacing: Sequence[float]) -> Box:
        if self.margin_mm is not None:
            return box_with_margin(region, np.ceil(self.margin_mm / np.array(spacing)).astype(int).tolist())
        edges = self.box_mm if self.box_mm is not None else self.second.trained_box_mm()
        return box_of_size(region, np.rint(np.array(edges) / spacing).astype(int).tolist())


def _check_documents(folder: Path) -> None:
    """Check what a model is built from; where a file is missing, nnU-Net says so."""
    plans, dataset = folder / "plans.json", folder / "dataset.json"
    if dataset.is_file():
        read_json_object(dataset)
    if plans.is_file():
        check_untrusted_plans(read_json_object(plans), str(plans))
