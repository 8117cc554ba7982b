"""A synthetic two-channel head: nested ellipsoids with random pose, bias field and noise, as nnU-Net raw data."""

import json
from pathlib import Path

import numpy as np
import SimpleITK

SPACING = (4.8, 5.8, 10.0)  # mm along x, y, z: thick slices, so nnU-Net plans an anisotropic network
SHAPE = (16, 32, 32)  # voxels along z, y, x
CHANNELS = ("T1w", "FLAIR")
LABELS = {"background": 0, "brain": 1, "ventricles": 2, "nuclei": 3, "lesion": 4}

# Mean intensity of each tissue in the two channels.
INTENSITY = {
    "air": (0.02, 0.02),
    "scalp": (0.90, 0.55),
    "skull": (0.12, 0.10),
    "grey": (0.52, 0.62),
    "white": (0.76, 0.48),
    "ventricles": (0.15, 0.12),
    "nuclei": (0.36, 0.72),
    "lesion": (0.42, 0.95),
}


def make_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make one head.

    Returns:
        The image, float32 of shape (2, z, y, x), and its labels, uint8 of shape (z, y, x), values as in ``LABELS``.
    """
    points = _head_coordinates(rng)
    head = np.array([65.0, 81.0, 71.0]) * rng.uniform(0.94, 1.04, 3)  # semi-axes in mm
    folds = 1 + 0.03 * np.sin(points / 7 + rng.uniform(0, 2 * np.pi, 3)).sum(-1) / 3
    width = rng.uniform(0.8, 1.3)  # of the ventricles, which vary most between people

    scalp = _ellipsoid(points, (0, 0, 0), head)
    skull = _ellipsoid(points, (0, 0, 0), 0.92 * head)
    brain = _ellipsoid(points, (0, 0, 0), 0.82 * head * folds[..., None])
    white = _ellipsoid(points, (0, 0, 0), 0.66 * head * folds[..., None])
    ventricles = _pair(points, (13, 4, 9), (9 * width, 29, 11 * width))
    nuclei = _pair(points, (28, 6, -7), (11, 21, 15)) & ~ventricles
    lesion = _lesion(points, head, rng) & brain & ~ventricles & ~nuclei

    tissue = np.full(SHAPE, "air", dtype="<U10")
    labels = np.zeros(SHAPE, dtype=np.uint8)
    regions = {"scalp": scalp, "skull": skull, "grey": brain, "white": white & brain}
    regions |= {"ventricles": ventricles, "nuclei": nuclei, "lesion": lesion}
    for name, region in regions.items():
        tissue[region] = name
    labels[brain] = LABELS["brain"]
    for name in ("ventricles", "nuclei", "lesion"):
        labels[regions[name]] = LABELS[name]

    image = np.stack([_acquire(tissue, channel, rng) for channel in range(len(CHANNELS))])
    return image, labels


def write_dataset(folder: Path, train_cases: int, test_cases: int, seed: int) -> None:
    """Write a raw nnU-Net data set, and ``imagesTs`` and ``labelsTs`` with cases held out of the training."""
    rng = np.random.default_rng(seed)
    for subset, cases in (("Tr", train_cases), ("Ts", test_cases)):
        images, truth = folder / f"images{subset}", folder / f"labels{subset}"
        images.mkdir(parents=True)
        truth.mkdir()
        for case in range(cases):
            image, labels = make_case(rng)
            name = f"head_{subset}{case:02d}"
            for channel, values in enumerate(image):
                _write(values, images / f"{name}_{channel:04d}.nii.gz")
            _write(labels, truth / f"{name}.nii.gz")
    description = {
        "channel_names": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": train_cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))


def _head_coordinates(rng: np.random.Generator) -> np.ndarray:
    """Place every voxel in a randomly tilted and shifted head, in mm: shape (z, y, x, 3), last axis x, y, z."""
    z, y, x = np.meshgrid(*[np.arange(size) - (size - 1) / 2 for size in SHAPE], indexing="ij")
    points = np.stack([x, y, z], axis=-1) * SPACING - rng.uniform(-3, 3, 3)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        angle = np.deg2rad(rng.uniform(-8, 8))
        a, b = points[..., first].copy(), points[..., second].copy()
        points[..., first] = np.cos(angle) * a - np.sin(angle) * b
        points[..., second] = np.sin(angle) * a + np.cos(angle) * b
    return points


def _ellipsoid(points: np.ndarray, centre: tuple, semi_axes: np.ndarray | tuple) -> np.ndarray:
    return (((points - centre) / semi_axes) ** 2).sum(-1) <= 1


def _pair(points: np.ndarray, centre: tuple, semi_axes: tuple) -> np.ndarray:
    """Make an ellipsoid on the right and its mirror image on the left."""
    x, y, z = centre
    return _ellipsoid(points, (x, y, z), semi_axes) | _ellipsoid(points, (-x, y, z), semi_axes)


def _lesion(points: np.ndarray, head: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    direction = rng.normal(size=3)
    centre = 0.5 * head * direction / np.linalg.norm(direction)
    return _ellipsoid(points, tuple(centre), rng.uniform(15, 21, 3))


def _acquire(tissue: np.ndarray, channel: int, rng: np.random.Generator) -> np.ndarray:
    """Make the intensities of one channel: means that vary by case, partial volume, bias field and noise."""
    values = np.zeros(tissue.shape)
    for name, means in INTENSITY.items():
        values[tissue == name] = means[channel] * rng.uniform(0.93, 1.07)
    values = SimpleITK.GetArrayFromImage(SimpleITK.DiscreteGaussian(SimpleITK.GetImageFromArray(values), 0.25))
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in tissue.shape], indexing="ij")
    bias = sum(rng.uniform(-0.15, 0.15) * axis + rng.uniform(-0.15, 0.15) * axis**2 for axis in axes)
    noisy = values * np.exp(bias) + rng.normal(0, 0.04, tissue.shape)
    return (1000 * np.abs(noisy)).astype(np.float32)


def _write(values: np.ndarray, path: Path) -> None:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin([-(size - 1) / 2 * spacing for size, spacing in zip(SHAPE[::-1], SPACING, strict=True)])
    SimpleITK.WriteImage(image, str(path))
