"""Memory of a prediction on the CPU, `nnunetv2_mamba predict` against `nnUNetv2_predict`, and whether labels agree.

    python benchmarks/prediction_memory.py WORK [--shape 700 512 512] [--only ours] [--json FILE]

Makes a CT of noise and a model of one small U-Net without training in the folder WORK, then runs the commands. Only the
sizes matter: a network of any weights asks for the same logits. Memory is what the command's processes have together
(Pss of Linux, which shares what several have in common), read every quarter of a second, and beside it the peak of its
largest process as the kernel counts it (VmHWM). What the system keeps of files is in neither.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

GB = 1e9
CONFIGURATION = "3d_fullres"
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}


def write_model(folder: Path, classes: int, patch: int, spacing: float) -> None:
    """What nnU-Net's training leaves of a model, weights as they were initialised."""
    configuration = {
        "data_identifier": "made_up",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [patch] * 3,
        "spacing": [spacing] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**RESAMPLING, "order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**RESAMPLING, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": RESAMPLING,
        "architecture": ARCHITECTURE,
    }
    intensities = {"mean": 0.0, "std": 100.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    plans = {
        "dataset_name": "Dataset999_MadeUp",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {CONFIGURATION: configuration},
    }
    labels = {"background": 0, **{f"label {value}": value for value in range(1, classes)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii"}
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), 1, classes, enable_deep_supervision=False
    )
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def write_image(file: Path, shape: list[int]) -> None:
    """Noise of 1 mm, int16, without a voxel of zero at the border that nnU-Net would crop away."""
    rng = np.random.default_rng(0)
    voxels = np.stack([rng.integers(1, 500, shape[1:], dtype=np.int16) for _ in range(shape[0])])
    file.parent.mkdir(parents=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), file)


def processes_below(process: int) -> list[int]:
    """The process and all that it has started, directly or not."""
    found = [process]
    for known in found:
        try:
            for children in Path(f"/proc/{known}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:  # it has ended meanwhile
            continue
    return found


def kilobytes(file: str, key: str) -> int:
    try:
        return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(key))
    except (OSError, StopIteration):
        return 0


def peak_of(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command to its end and watch its memory."""
    begin = time.perf_counter()
    together = largest = 0
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        alive = processes_below(process.pid)
        together = max(together, sum(kilobytes(f"/proc/{number}/smaps_rollup", "Pss:") for number in alive))
        largest = max(largest, *(kilobytes(f"/proc/{number}/status", "VmHWM:") for number in alive))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return {
        "all processes GB": round(together * 1024 / GB, 2),
        "largest process GB": round(largest * 1024 / GB, 2),
        "seconds": round(time.perf_counter() - begin),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder, made; needs room for the image and the logits")
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 256, 256], help="of the image, 1 mm, slices first")
    parser.add_argument("--spacing", type=float, default=1.0, help="of the model, in mm")
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--step-size", type=float, default=0.5)
    parser.add_argument("--models", type=int, default=1, help="how often ours is given the model")
    parser.add_argument("--probabilities", help="ours writes maps of all labels, too, in this type")
    parser.add_argument("--only", choices=("ours", "nnunet"))
    parser.add_argument("--json", type=Path, help="where results are added")
    args = parser.parse_args()

    write_model(args.work / "model", args.classes, args.patch, args.spacing)
    write_image(args.work / "images" / "ct_0000.nii", args.shape)
    model = args.work / "model"
    common = ["-i", args.work / "images", "-f", "0", "--disable_tta", "-device", "cpu", "-step_size", args.step_size]
    maps = ["--probabilities", args.probabilities] if args.probabilities else []
    commands = {
        "ours": [sys.executable, "-m", "nnunetv2_mamba", "predict", "-m", *[model] * args.models, *maps],
        "nnunet": [
            *(
                sys.executable,
                "-c",
                "from nnunetv2.inference.predict_from_raw_data import *; predict_entry_point_modelfolder()",
            ),
            *("-m", model, "-npp", "1", "-nps", "1", "--disable_progress_bar"),
        ],
    }
    folders = {name: str(args.work) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    peaks = {}
    for name in [args.only] if args.only else commands:
        peaks[name] = peak_of([*map(str, [*commands[name], *common, "-o", args.work / name])], os.environ | folders)
        print(name, peaks[name], flush=True)
    options = ("shape", "spacing", "classes", "patch", "step_size", "models", "probabilities")
    result = {**{option: getattr(args, option) for option in options}, "peak memory": peaks}
    if len(peaks) == 2:
        ours, theirs = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(args.work / name / "ct.nii")) for name in peaks)
        result["labels that differ"] = int((ours != theirs).sum())
        result["labels found"] = len(np.unique(ours))
    print(json.dumps(result))
    if args.json:
        results = json.loads(args.json.read_text()) if args.json.exists() else []
        args.json.write_text(json.dumps([*results, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
