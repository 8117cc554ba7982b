"""Label values that ``dataset.json`` has not are told before a training, not by an index error deep in the loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import (
    infer_dataset_class,
    nnUNetDatasetBlosc2,
    nnUNetDatasetNumpy,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tiny_dataset import NAME

from nnunetv2_mamba.trainers import label_check
from nnunetv2_mamba.trainers.label_check import check_labels

LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 3], "core": [3]}


def save(folder: Path, case: str, values: list[int], kind=nnUNetDatasetBlosc2, channels: int = 1) -> None:
    """A case whose label map has these values."""
    shape = (channels, 4, 5, 6)
    segmentation = np.resize(np.array(values, dtype=np.int16), shape)
    sizes = dict.fromkeys(("chunks", "blocks", "chunks_seg", "blocks_seg"), shape)
    more = sizes if kind is nnUNetDatasetBlosc2 else {}
    kind.save_case(segmentation.astype(np.float32), segmentation, {"spacing": [1, 1, 1]}, str(folder / case), **more)


@pytest.mark.parametrize("kind", [nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
@pytest.mark.parametrize(
    ("labels", "order", "values"),
    [
        (LABELS, None, [-1, 0, 1, 2]),
        (LABELS, None, [0]),
        ({**LABELS, "ignore": 3}, None, [0, 3]),
        (REGIONS, [1, 3], [-1, 0, 1, 3]),
    ],
)
def test_known_values(tmp_path, kind, labels, order, values):
    save(tmp_path, "c0", values, kind)
    check_labels([kind(str(tmp_path), ["c0"])], LabelManager(labels, order))


@pytest.mark.parametrize("kind", [nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
@pytest.mark.parametrize(
    ("labels", "order", "values", "named"),
    [
        (LABELS, None, [0, 3], "3"),
        (LABELS, None, [-2, 0, 7, 9], "-2, 7, 9"),
        ({**LABELS, "ignore": 3}, None, [0, 4], "4"),
        (REGIONS, [1, 3], [0, 1, 2, 3], "2"),  # between the others
    ],
)
def test_unknown_values_are_refused(tmp_path, kind, labels, order, values, named):
    save(tmp_path, "good", [0, 1], kind)
    save(tmp_path, "bad", values, kind)
    datasets = [kind(str(tmp_path), ["good"]), kind(str(tmp_path), ["bad"])]
    with pytest.raises(
        ValueError, match=rf"{tmp_path} .* does not list \([0-9, ]+\): bad has {named}\. Correct"
    ) as error:
        check_labels(datasets, LabelManager(labels, order))
    assert "good" not in str(error.value)


@pytest.mark.parametrize("kind", [nnUNetDatasetBlosc2, nnUNetDatasetNumpy])
def test_masks_in_colours_are_refused(tmp_path, kind):
    save(tmp_path, "c0", [0, 1], kind, channels=3)
    with pytest.raises(ValueError, match=f"the label map of c0 in {tmp_path} has 3 channels: .* preprocess again"):
        check_labels([kind(str(tmp_path), ["c0"])], LabelManager(LABELS, None))


def test_gaps_between_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="labels of dataset.json are 0, 1, 4; .* without a gap"):
        check_labels([], LabelManager({"background": 0, "a": 1, "b": 4}, None))


def test_missing_and_damaged_files_are_named(tmp_path):
    save(tmp_path, "c0", [0, 1])
    whole = (tmp_path / "c0_seg.b2nd").read_bytes()
    (tmp_path / "c0_seg.b2nd").write_bytes(whole[: len(whole) // 2])
    dataset = nnUNetDatasetBlosc2(str(tmp_path), ["c0"])
    with pytest.raises(ValueError, match=rf"c0 in {tmp_path} cannot be read .*preprocess again"):
        check_labels([dataset], LabelManager(LABELS, None))
    (tmp_path / "c0_seg.b2nd").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} has no label map of c0"):
        check_labels([dataset], LabelManager(LABELS, None))


def test_files_are_read_once_until_they_change(tmp_path, monkeypatch):
    folder, kept = tmp_path / "nnUNetPlans_2d", tmp_path / "label_values" / "nnUNetPlans_2d.json"
    folder.mkdir()
    for case in ("c0", "c1"):
        save(folder, case, [0, 1])
    read = []
    monkeypatch.setattr(
        nnUNetDatasetBlosc2,
        "load_case",
        lambda self, case, load=nnUNetDatasetBlosc2.load_case: read.append(case) or load(self, case),
    )

    def check(*cases: str) -> list[str]:
        read.clear()
        check_labels([nnUNetDatasetBlosc2(str(folder), list(cases))], LabelManager(LABELS, None))
        return sorted(read)

    assert check("c0", "c1") == ["c0", "c1"]
    assert check("c0") == check("c0", "c1") == []
    assert infer_dataset_class(str(folder)) is nnUNetDatasetBlosc2  # it refuses other files in the folder
    for file in folder.glob("c1*.b2nd"):
        file.unlink()
    save(folder, "c1", [0, 1, 5])
    with pytest.raises(ValueError, match="c1 has 5"):
        check("c0", "c1")
    assert read == ["c1"]
    with pytest.raises(ValueError, match="c1 has 5"):  # not only the first time
        check("c0", "c1")
    stamp = json.loads(kept.read_text())["c0"]["file"]
    for damaged in ("{", "[]", {"c0": 3}, {"c0": {"file": stamp}}, {"c0": {"file": stamp, "values": [0, "x"]}}):
        kept.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
        assert check("c0") == ["c0"]
    monkeypatch.setattr(label_check, "write_json", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    kept.unlink()
    assert check("c0") == ["c0"]
    read.clear()
    check_labels([nnUNetDatasetBlosc2(str(folder), ["c0"])] * 2, LabelManager(LABELS, None))
    assert read == ["c0"]  # of fold all, which validates with the cases that it trains with


def test_files_are_read_several_at_a_time(tmp_path, monkeypatch):
    """With several GPUs the other processes wait, and NCCL gives up after ten minutes."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    for case in ("c0", "c1"):
        save(tmp_path, case, [0, 1])
    both = Barrier(2, timeout=10)
    read = label_check._read
    monkeypatch.setattr(label_check, "_read", lambda *case: (both.wait(), read(*case))[1])
    check_labels([nnUNetDatasetBlosc2(str(tmp_path), ["c0", "c1"])], LabelManager(LABELS, None))
    kept = json.loads((tmp_path.parent / "label_values" / f"{tmp_path.name}.json").read_text())
    assert {case: entry["values"] for case, entry in kept.items()} == {"c0": [0, 1], "c1": [0, 1]}


def test_a_training_refuses_before_it_starts(make_trainer, tiny_dataset, tmp_path, monkeypatch):
    """As after ``nnUNetv2_plan_and_preprocess`` without its check: a label map has a value too many."""
    copied = tmp_path / "preprocessed"
    shutil.copytree(tiny_dataset.preprocessed / NAME, copied / NAME)
    monkeypatch.setenv("nnUNet_preprocessed", str(copied))
    description = json.loads((copied / NAME / "dataset.json").read_text())
    description["labels"].popitem()
    trainer = make_trainer("nnUNetTrainerSegMamba", dataset_json=description)
    with pytest.raises(ValueError, match=r"does not list \(0, 1\): case_\d has 2; .* delete that folder"):
        trainer.on_train_start()
