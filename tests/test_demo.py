"""The demo's data, picture, folder and verdict; the whole of it in the slow suite."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from matplotlib.image import imread

import nnunetv2_mamba
from nnunetv2_mamba.demo import phantom, picture, pipeline

NAMES = {label: name for name, label in phantom.LABELS.items() if label}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_HeadPhantom"
    phantom.write_dataset(folder, train_cases=1, test_cases=2, seed=1)
    return folder


def test_structures_are_all_there_and_differ_in_size():
    for seed in range(3):
        image, labels = phantom.make_case(np.random.default_rng(seed))
        assert image.shape == (len(phantom.CHANNELS), *phantom.SHAPE) and image.dtype == np.float32
        assert np.isfinite(image).all()
        sizes = np.bincount(labels.ravel(), minlength=len(phantom.LABELS))
        assert len(sizes) == len(phantom.LABELS)
        assert sizes.min() >= 30  # voxels
        assert sizes[phantom.LABELS["brain"]] > 20 * sizes[phantom.LABELS["lesion"]]
        border = np.ones(phantom.SHAPE, dtype=bool)
        border[1:-1, 1:-1, 1:-1] = False
        assert not labels[border].any()  # the head lies inside the image


def test_cases_are_seeded_and_differ():
    first, again, other = (phantom.make_case(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])


def test_data_set_is_what_nnunet_expects(dataset):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(dataset), num_processes=1)
    assert [path.name for path in sorted((dataset / "labelsTs").iterdir())] == ["head_Ts00.nii.gz", "head_Ts01.nii.gz"]
    image = SimpleITK.ReadImage(str(dataset / "imagesTs" / "head_Ts00_0001.nii.gz"))
    assert np.allclose(image.GetSpacing(), phantom.SPACING)
    assert image.GetSize() == phantom.SHAPE[::-1]


def draw(dataset, prediction, output) -> np.ndarray:
    channels = {name: dataset / "imagesTs" / f"head_Ts00_{i:04d}.nii.gz" for i, name in enumerate(phantom.CHANNELS)}
    picture.draw(channels, dataset / "labelsTs" / "head_Ts00.nii.gz", prediction, NAMES, output)
    return imread(output)


def test_picture_shows_truth_and_prediction(dataset, tmp_path):
    truth = SimpleITK.ReadImage(str(dataset / "labelsTs" / "head_Ts00.nii.gz"))
    empty = tmp_path / "empty.nii.gz"
    SimpleITK.WriteImage(truth * 0, str(empty))
    right = draw(dataset, dataset / "labelsTs" / "head_Ts00.nii.gz", tmp_path / "right.png")
    wrong = draw(dataset, empty, tmp_path / "wrong.png")
    assert right.shape == wrong.shape
    columns = np.flatnonzero((right != wrong).any(axis=(0, 2)))
    assert columns.min() > 0.7 * right.shape[1]  # only the panel on the right differs
    assert len(columns) > 0.1 * right.shape[1]


def test_a_new_run_starts_clean(tmp_path):
    folder = tmp_path / "new" / "demo"
    pipeline.prepare(folder)
    (folder / "results").mkdir()
    (folder / "results" / "old.txt").touch()
    (folder / "notes.txt").touch()
    pipeline.prepare(folder)
    assert not (folder / "results").exists()
    assert (folder / "notes.txt").exists()


def test_commands_get_their_own_variables(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("nnUNet_raw", "the user's")
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    before = dict(os.environ)
    pipeline.nnunet(pipeline.settings(tmp_path), "evaluate_simple", "--help")
    assert dict(os.environ) == before
    output = capfd.readouterr().out
    assert output.startswith("$ nnUNetv2_evaluate_simple --help\n")
    assert "usage: nnUNetv2_evaluate_simple" in output


def test_a_command_that_fails_ends_the_demo(tmp_path, capfd):
    with pytest.raises(pipeline.subprocess.CalledProcessError, match="nnUNetv2_evaluate_simple"):
        pipeline.nnunet(pipeline.settings(tmp_path), "evaluate_simple", tmp_path / "none")


@pytest.fixture
def without_nnunet(monkeypatch):
    """The demo with a Dice as given instead of nnU-Net's work."""

    def set_dice(value: float) -> None:
        def command(settings, verb, *arguments):
            if verb == "evaluate_folder":
                truth, predictions = arguments[:2]
                predictions.mkdir()
                for path in truth.iterdir():
                    (predictions / path.name).write_bytes(path.read_bytes())
                means = {str(label): {"Dice": value} for label in NAMES}
                (predictions / "summary.json").write_text(json.dumps({"mean": means}))

        monkeypatch.setattr(pipeline, "nnunet", command)
        monkeypatch.setattr(pipeline, "TRAIN_CASES", 1)
        monkeypatch.setattr(pipeline, "TEST_CASES", 1)

    return set_dice


@pytest.mark.parametrize(("dice", "code"), [(0.76, 0), (0.74, 1), (float("nan"), 1)])
def test_verdict(dice, code, without_nnunet, tmp_path, capsys):
    without_nnunet(dice)
    assert pipeline.run(tmp_path / "demo") == code
    captured = capsys.readouterr()
    assert all(name in captured.out for name in NAMES.values())
    assert f"mean        {dice:.3f}" in captured.out
    assert ("below 0.75" in captured.err) == (code == 1)
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    assert pipeline.run(tmp_path / "demo") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_demo_that_is_ended_leaves_no_process(tmp_path, signal_, code, signals_not_ignored):
    """The signal goes to the demo alone, while the training has its data-loading processes."""
    program = "from nnunetv2_mamba import cli; from nnunetv2_mamba.demo import pipeline; pipeline.TRAIN_CASES = 5; "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}raise SystemExit(cli.main(['demo', '-o', {str(tmp_path / 'demo')!r}]))"],
        env=os.environ | {"PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = []
    for line in process.stdout:  # ends when the last process that could still write has ended
        printed.append(line)
        if "Epoch 0" in line:
            process.send_signal(signal_)
    assert process.wait() == code, "".join(printed)[-3000:]
    assert "Traceback" not in "".join(printed), "".join(printed)[-3000:]
    assert list((tmp_path / "demo" / "results").rglob("checkpoint_latest.pth"))
