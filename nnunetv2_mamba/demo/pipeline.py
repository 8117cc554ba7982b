"""The demo: makes the data, runs nnU-Net's commands as subprocesses and reports Dice and a picture."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

from .. import _register
from ..processes import run_and_end_with_us
from . import phantom, picture

DATASET = "Dataset001_HeadPhantom"
TRAINER = "nnUNetTrainerMedSegMamba"
TRAIN_CASES, TEST_CASES, SEED = 20, 4, 2026
# Not mirrored: the demo's head has on the left what it has on the right, and prediction would take eight times as long.
SETTINGS = "num_epochs=4, num_iterations_per_epoch=20, num_val_iterations_per_epoch=1, initial_lr=1e-3, mirroring=false"
ENOUGH_DICE = 0.75
# The images are fine enough to be looked at; at this voxel size in mm (z, y, x) two CPU cores train on them in minutes.
TRAINED_AT = "10", "6", "5"

MARKER = "nnunetv2_mamba_demo.json"  # tells an earlier demo from a folder of the user's
PARTS = ("raw", "preprocessed", "results", "predictions")


def run(folder: Path) -> int:
    """Run the whole demo in ``folder``, from the start, and return the exit code: 1 if the Dice is too low.

    Raises:
        ValueError: ``folder`` holds something else than an earlier demo.
        subprocess.CalledProcessError: one of nnU-Net's commands failed.
    """
    start = time.monotonic()
    prepare(folder)
    device = _device()
    raw, predictions = folder / "raw" / DATASET, folder / "predictions"

    _heading(f"1/5 Make {TRAIN_CASES} training and {TEST_CASES} test cases of a synthetic head in {raw}")
    phantom.write_dataset(raw, TRAIN_CASES, TEST_CASES, SEED)
    variables = settings(folder.resolve())
    print("nnU-Net's commands run with the following variables; your own nnUNet_* variables stay as they are:")
    for name, value in variables.items():
        print(f"  {name}={shlex.quote(value)}")

    _heading("2/5 Plan and preprocess")
    coarse = ["-overwrite_target_spacing", *TRAINED_AT]
    nnunet(variables, "plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-npfp", "1", "-np", "1", *coarse)

    _heading("3/5 Train, the longest step: minutes on two CPU cores")
    nnunet(variables, "train", "1", "3d_fullres", "0", "-tr", TRAINER, "-device", device)

    _heading("4/5 Predict the test cases")
    model = ["-d", "1", "-c", "3d_fullres", "-f", "0", "-tr", TRAINER, "-device", device]
    nnunet(variables, "predict", "-i", raw / "imagesTs", "-o", predictions, *model, "-npp", "1", "-nps", "1")

    _heading("5/5 Evaluate")
    description = ["-djfile", predictions / "dataset.json", "-pfile", predictions / "plans.json"]
    nnunet(variables, "evaluate_folder", raw / "labelsTs", predictions, *description)

    dice = mean_dice(predictions / "summary.json")
    mean = sum(dice.values()) / len(dice)
    image = _draw(folder, raw, predictions)
    _heading(f"Finished in {(time.monotonic() - start) / 60:.1f} minutes. Dice of the test cases:")
    for name, value in dice.items():
        print(f"  {name:<12}{value:.3f}")
    print(f"  {'mean':<12}{mean:.3f}\nPicture: {image}")
    if not mean >= ENOUGH_DICE:  # also for NaN
        print(f"The mean Dice is below {ENOUGH_DICE}; please report this and `nnunetv2_mamba doctor`.", file=sys.stderr)
        return 1
    return 0


def mean_dice(summary: Path) -> dict[str, float]:
    """Read the Dice of every structure, averaged over the cases, from nnU-Net's ``summary.json``."""
    means = json.loads(summary.read_text())["mean"]
    return {name: means[str(label)]["Dice"] for name, label in phantom.LABELS.items() if label}


def prepare(folder: Path) -> None:
    """Make ``folder`` ready for a demo: new, or without what an earlier demo left."""
    marker = folder / MARKER
    if folder.is_dir() and any(folder.iterdir()) and not marker.is_file():
        raise ValueError(f"{folder} is not empty and holds no earlier demo: name a new folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"trainer": TRAINER, "seed": SEED}))
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def settings(folder: Path) -> dict[str, str]:
    """Return the variables for nnU-Net's commands.

    They ask for no compilation, for which the demo is too short, and few processes: each one imports PyTorch for longer
    than it works.
    """
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_extTrainer": _register.DISCOVERY,
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "false",
        "NNUNETV2_MAMBA_SETTINGS": SETTINGS,
    }


def nnunet(variables: dict[str, str], verb: str, *arguments: str | Path) -> None:
    """Print ``nnUNetv2_<verb> arguments`` and run it with this process's packages, script on PATH or not."""
    name, words = f"nnUNetv2_{verb}", [str(argument) for argument in arguments]
    print(f"$ {shlex.join([name, *words])}", flush=True)
    (script,) = entry_points(group="console_scripts", name=name)
    code = f"import sys; sys.path[:] = {sys.path!r}; sys.argv[0] = {name!r}\n"
    code += f"from {script.module} import {script.attr}\nsys.exit({script.attr}())"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
    environment = inherited | {"PYTHONUNBUFFERED": "1"} | variables
    returncode = run_and_end_with_us([sys.executable, "-c", code, *words], env=environment)
    if returncode:
        raise subprocess.CalledProcessError(returncode, name)


def _draw(folder: Path, raw: Path, predictions: Path) -> Path:
    case = "head_Ts00"
    channels = {name: raw / "imagesTs" / f"{case}_{i:04d}.nii.gz" for i, name in enumerate(phantom.CHANNELS)}
    truth, prediction = raw / "labelsTs" / f"{case}.nii.gz", predictions / f"{case}.nii.gz"
    names = {label: name for name, label in phantom.LABELS.items() if label}
    output = folder / "demo.png"
    picture.draw(channels, truth, prediction, names, output)
    return output


def _heading(text: str) -> None:
    print(f"\n=== {text}", flush=True)
