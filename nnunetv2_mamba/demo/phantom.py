"""A synthetic two-channel head with folded cortex, ventricles, nuclei and a lesion, as nnU-Net raw data."""

import json
from pathlib import Path

import numpy as np
import SimpleITK
from scipy.ndimage import gaussian_filter

SPACING = (1.5, 1.5, 4.0)  # mm along x, y, z
SHAPE = (40, 128, 108)  # voxels along z, y, x
CHANNELS = ("T1w", "FLAIR")
LABELS = {"background": 0, "brain": 1, "ventricles": 2, "nuclei": 3, "lesion": 4}

# Mean intensity of each tissue in the two channels.
INTENSITY = {
    "air": (0.02, 0.02),
    "scalp": (0.90, 0.55),
    "bone": (0.10, 0.08),
    "marrow": (0.45, 0.28),
    "fluid": (0.16, 0.10),
    "grey": (0.50, 0.60),
    "white": (0.76, 0.46),
    "ventricles": (0.15, 0.12),
    "nuclei": (0.47, 0.64),
    "lesion": (0.40, 0.95),
}
FOLD = 4.2  # mm: how smooth the noise is whose level sets are the folds of the cortex


def make_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make one head.

    Returns:
        The image, float32 of shape (2, z, y, x), and its labels, uint8 of shape (z, y, x), values as in ``LABELS``.
    """
    points = _head_coordinates(rng)
    head = np.array([68.0, 85.0, 72.0]) * rng.uniform(0.95, 1.03, 3)  # semi-axes in mm
    folds, waves = _smooth_noise(FOLD, rng), _smooth_noise(3 * FOLD, rng)
    depth = _depth(points, head) + 0.015 * waves
    regions = _layers(depth, folds, points)
    brain = regions["fluid"]  # the whole of it: what is not fluid is named below
    regions |= _deep_structures(points, rng)
    regions["lesion"] = _lesion(points, head, folds, rng) & brain & ~regions["ventricles"] & ~regions["nuclei"]

    labels = np.where(brain, LABELS["brain"], LABELS["background"]).astype(np.uint8)
    for name in ("ventricles", "nuclei", "lesion"):
        labels[regions[name]] = LABELS[name]
    image = np.stack([_acquire(regions, channel, rng) for channel in range(len(CHANNELS))])
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
                _write(values.astype(np.int16), images / f"{name}_{channel:04d}.nii.gz")
            _write(labels, truth / f"{name}.nii.gz")
    description = {
        "channel_names": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": train_cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2))


def _head_coordinates(rng: np.random.Generator) -> np.ndarray:
    """Place every voxel in a randomly tilted and shifted head, in mm: shape (z, y, x, 3), last axis x, y, z.

    As in nnU-Net's images x grows to the left, y to the back and z to the top of the head.
    """
    z, y, x = np.meshgrid(*[np.arange(size) - (size - 1) / 2 for size in SHAPE], indexing="ij")
    points = np.stack([x, y, z], axis=-1) * SPACING - rng.uniform(-3, 3, 3)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        angle = np.deg2rad(rng.uniform(-8, 8))
        a, b = points[..., first].copy(), points[..., second].copy()
        points[..., first] = np.cos(angle) * a - np.sin(angle) * b
        points[..., second] = np.sin(angle) * a + np.cos(angle) * b
    return points


def _smooth_noise(length: float, rng: np.random.Generator) -> np.ndarray:
    """Make noise of unit variance that is smooth over ``length`` mm, of shape (z, y, x)."""
    sigma = [length / spacing for spacing in reversed(SPACING)]
    noise = gaussian_filter(rng.normal(size=SHAPE), sigma, mode="wrap")
    return noise / noise.std()


def _depth(points: np.ndarray, head: np.ndarray) -> np.ndarray:
    """0 in the middle of the head, 1 at its surface, which is narrower at the forehead than behind."""
    x, y, z = np.moveaxis(points / head, -1, 0)
    return (np.abs(x / (1 + 0.14 * y)) ** 2.3 + np.abs(y) ** 2.1 + np.abs(z) ** 2.3) ** (1 / 2.2)


def _layers(depth: np.ndarray, folds: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    """Return scalp, bone with its marrow, and the brain: fluid that grey and white matter fill but for the sulci.

    Sulci follow the level set 0 of the noise, grey matter lines them and the surface.
    """
    beside_midline = np.abs(points[..., 0])
    sulci = (np.abs(folds) < 0.16) & (depth > 0.60) | (beside_midline < 1.6) & (depth > 0.42)
    ribbon = (np.abs(folds) < 0.65) & (depth > 0.54) | (depth > 0.765) | (beside_midline < 4.5) & (depth > 0.38)
    brain = depth < 0.82
    return {
        "scalp": depth < 1,
        "bone": depth < 0.935,
        "marrow": np.abs(depth - 0.893) < 0.017,
        "fluid": brain,
        "grey": (depth < 0.808) & ~sulci,
        "white": brain & ~ribbon & ~sulci,
    }


def _deep_structures(points: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the ventricles, which vary most between people, and the nuclei around them."""
    width = rng.uniform(0.8, 1.3)
    x, y, z = np.moveaxis(points, -1, 0)
    bent = np.stack([np.abs(x) - 0.010 * (y - 2) ** 2, y, z + 0.004 * y**2], axis=-1)  # butterfly: ends turn outwards
    lateral = _ellipsoid(bent, (6, 2, 10), (7.5 * width, 38, 15 * width))
    third = _ellipsoid(points, (0, 8, -8), (3 * width, 14, 14))
    mirrored = np.stack([np.abs(x) + 0.25 * y, y - 0.25 * np.abs(x), z], axis=-1)
    thalamus = _ellipsoid(mirrored, (18, 8, 1), (12, 17, 15))
    lentiform = _ellipsoid(mirrored, (27, -16, 0), (10, 22, 16))
    caudate = _ellipsoid(bent, (16, -16, 10), (9, 17, 14))
    ventricles = lateral | third
    return {"ventricles": ventricles, "nuclei": (thalamus | lentiform | caudate) & ~ventricles}


def _lesion(points: np.ndarray, head: np.ndarray, folds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    direction = rng.normal(size=3)
    centre = 0.5 * head * direction / np.linalg.norm(direction)
    ragged = points + 1.5 * folds[..., None]
    return _ellipsoid(ragged, tuple(centre), rng.uniform(15, 21, 3))


def _ellipsoid(points: np.ndarray, centre: tuple, semi_axes: np.ndarray | tuple) -> np.ndarray:
    return (((points - centre) / semi_axes) ** 2).sum(-1) <= 1


def _acquire(regions: dict[str, np.ndarray], channel: int, rng: np.random.Generator) -> np.ndarray:
    """Make the intensities of one channel: means that vary by case, partial volume, bias field and noise."""
    means = {name: values[channel] * rng.uniform(0.93, 1.07) for name, values in INTENSITY.items()}
    values = np.full(SHAPE, means["air"])
    for name, region in regions.items():  # each lies in or over those before it
        values[region] = means[name]
    values = gaussian_filter(values, (0.25, 0.6, 0.6))
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij", sparse=True)
    bias = sum(rng.uniform(-0.15, 0.15) * axis + rng.uniform(-0.15, 0.15) * axis**2 for axis in axes)
    noisy = values * np.exp(bias) + rng.normal(0, 0.04, SHAPE)
    return (1000 * np.abs(noisy)).astype(np.float32)


def _write(values: np.ndarray, path: Path) -> None:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin([-(size - 1) / 2 * spacing for size, spacing in zip(SHAPE[::-1], SPACING, strict=True)])
    SimpleITK.WriteImage(image, str(path))
