"""Ways to walk a grid of voxels, as index tables.

Tokens are numbered in C order of the grid: token `(i * W + j) * D + k` is voxel `(i, j, k)` of an `(H, W, D)` grid. A
table maps scan position to token, so flips, transposes and curves cost the scan a lookup and never a copy.

`raster`, `inter_slice`, `serpentine`, `morton`, `hilbert`, `random` and `reverse` build one order as a numpy int32
array of shape (L,). `table` and those with names of their own (`unidirectional`, `bidirectional`, `tri_oriented`,
`six_axes`, `ss3d`) put orders together to what the networks use: int32 tensors of shape (K, L) that come from a cache
and must not be written to.
"""

from .curves import morton, random
from .hilbert_curve import hilbert
from .named_paths import directions
from .rows import inter_slice, raster, reverse, serpentine
from .tables import bidirectional, six_axes, ss3d, table, tri_oriented, unidirectional

__all__ = [
    "bidirectional",
    "directions",
    "hilbert",
    "inter_slice",
    "morton",
    "random",
    "raster",
    "reverse",
    "serpentine",
    "six_axes",
    "ss3d",
    "table",
    "tri_oriented",
    "unidirectional",
]
