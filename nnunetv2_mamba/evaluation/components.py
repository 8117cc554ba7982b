"""Connected components of a mask, of 1, 2 or 3 dimensions."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import generate_binary_structure, label

_RANKS = {6: 1, 18: 2, 26: 3}  # how many coordinates of two neighbours may differ


def connected_components(mask: np.ndarray, neighbours: int) -> np.ndarray:
    """Number the components from 1 on, 0 elsewhere; see ``neighbourhood``."""
    return label(mask, neighbourhood(mask.ndim, neighbours))[0]


def neighbourhood(n_axes: int, neighbours: int) -> np.ndarray:
    """Make the neighbourhood of 6, 18 or 26 voxels, in fewer dimensions that of its kind."""
    return generate_binary_structure(n_axes, min(n_axes, _RANKS[neighbours]))
