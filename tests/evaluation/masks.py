"""Masks whose surfaces are known."""

import numpy as np


def ball(shape, centre, radius, spacing=None):
    """Voxels whose centres are within ``radius`` mm of the voxel ``centre``; None: 1 mm."""
    offsets = np.ogrid[tuple(slice(n) for n in shape)]
    spacing = spacing or (1,) * len(shape)
    return sum(((o - c) * s) ** 2 for o, c, s in zip(offsets, centre, spacing, strict=True)) <= radius**2


def box(shape, start, stop):
    """Voxels from ``start`` up to and without ``stop``."""
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def blobs(shape, seed, share=0.2):
    """A random mask with ragged surfaces: smoothed noise above a threshold, up to the image's border."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > np.quantile(noise, 1 - share)
