"""Time and memory of `nnunetv2_mamba evaluate` on a whole head: 256 x 256 x 256 voxels, 28 labels.

    python benchmarks/evaluation.py [--size N] [--json FILE]

Every voxel of the reference has a label (regions around random points) but for a frame of background; the prediction is
shifted by two voxels and one voxel in a thousand has a random label, so that surfaces are everywhere. One case, so one
process: seconds by the clock and of CPU, reading included, and the process's peak memory, torch included.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.spatial import cKDTree

N_LABELS = 28


def label_map(size: int, seed: int = 0) -> np.ndarray:
    """Regions around 28 points, and a frame of background."""
    rng = np.random.default_rng(seed)
    coarse = np.argwhere(np.ones((size // 4,) * 3)) * 4
    points = rng.uniform(0, size, (N_LABELS, 3))
    regions = cKDTree(points).query(coarse)[1].reshape((size // 4,) * 3) + 1
    volume = np.kron(regions, np.ones((4, 4, 4), dtype=np.uint8)).astype(np.uint8)
    frame = np.zeros_like(volume)
    inner = (slice(size // 16, -(size // 16)),) * 3
    frame[inner] = volume[inner]
    return frame


def predicted(reference: np.ndarray, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    prediction = np.roll(reference, 2, axis=(0, 2))
    wrong = rng.random(prediction.shape) < 1e-3
    prediction[wrong] = rng.integers(0, N_LABELS + 1, wrong.sum())
    return prediction


def write_case(folder: Path, size: int) -> tuple[Path, Path]:
    """Folders of references and predictions with one case."""
    reference = label_map(size)
    folders = []
    for name, array in (("references", reference), ("predictions", predicted(reference))):
        folders.append(folder / name)
        folders[-1].mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), folders[-1] / "head.nii.gz")
    labels = {"background": 0, **{f"label {value}": value for value in range(1, N_LABELS + 1)}}
    description = {"labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return tuple(folders)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(size: int) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        folders = write_case(Path(temporary), size)
        data = peak_mib()
        started, cpu = time.perf_counter(), time.process_time()
        from nnunetv2_mamba.cli import main

        assert main(["evaluate", *map(str, folders), "-np", "1"]) == 0
        return {
            "size": size,
            "labels": N_LABELS,
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mib": round(peak_mib()),
            "peak_mib_of_making_the_data": round(data),
            "processor": platform.processor() or platform.machine(),
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="voxels per axis (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    result = measure(args.size)
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
