"""Orders that follow no rows: Hilbert's, Morton's, a random one; on every small grid and on some large ones."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_mamba.ops import scan_order

ORDERS = (scan_order.hilbert, scan_order.morton, scan_order.random)
RANDOM_OF_NINE = [7, 2, 1, 4, 8, 6, 3, 0, 5]
RANDOM_OF_A_FEATURE_MAP = "055266477e9006046812064bec81d52447cf6e5150e24a2b92c731538ecaf9e9"
HILBERT_OF_MANY = "f0ea87b8f0747b411d5b641e8fe7d43ea0c0b1e0d1ebb1d1bd52acb9c1a3c256"
grids = st.lists(st.integers(1, 70), min_size=1, max_size=3).filter(lambda shape: np.prod(shape) < 50_000)
# What networks see: patches of common plans, their feature maps, thin and odd ones.
LARGE = [(56, 40), (224, 160), (1, 97), (40, 56, 40), (20, 28, 20), (5, 7, 5), (48, 96, 80), (9, 64, 64), (63, 1, 65)]


def coordinates(order: np.ndarray, shape) -> np.ndarray:
    return np.stack(np.unravel_index(order, shape), axis=-1)


def assert_permutation(order: np.ndarray, shape) -> None:
    """Every token once, which makes the inverse what puts a sequence back."""
    assert order.dtype == np.int32 and order.shape == (np.prod(shape),)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    tokens = np.arange(len(order))
    assert np.array_equal(tokens[order][inverse], tokens) and np.array_equal(order[inverse], tokens), shape


def assert_steps_to_neighbours(order: np.ndarray, shape) -> None:
    assert (np.abs(np.diff(coordinates(order, shape), axis=0)).sum(axis=1) == 1).all(), shape


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_hilbert_walks_every_small_box_without_a_jump(axes):
    for shape in product(range(1, {1: 40, 2: 25, 3: 11}[axes]), repeat=axes):
        order = scan_order.hilbert(shape)
        assert order[0] == 0
        assert_permutation(order, shape)
        assert_steps_to_neighbours(order, shape)


@pytest.mark.parametrize("shape", LARGE)
def test_hilbert_walks_large_boxes_without_a_jump(shape):
    order = scan_order.hilbert(shape)
    assert_permutation(order, shape)
    assert_steps_to_neighbours(order, shape)


@given(grids)
def test_hilbert_walks_any_box_without_a_jump(shape):
    order = scan_order.hilbert(shape)
    assert_permutation(order, shape)
    assert_steps_to_neighbours(order, shape)


@pytest.mark.parametrize(("axes", "size"), [(2, 8), (2, 32), (3, 4), (3, 16)])
def test_hilbert_leaves_a_block_of_a_power_of_two_only_when_it_is_done(axes, size):
    """What defines Hilbert's curves."""
    visited = coordinates(scan_order.hilbert((size,) * axes), (size,) * axes)
    block = size // 2
    while block:
        blocks = (visited // block).reshape(-1, block**axes, axes)
        assert (blocks == blocks[:, :1]).all()
        block //= 2


def hilbert_of_the_plane(order: int) -> list[tuple[int, int]]:
    """The curve as Hilbert (1891) drew it: four copies, the first and the last mirrored at a diagonal."""
    if order == 0:
        return [(0, 0)]
    part, half = hilbert_of_the_plane(order - 1), 2 ** (order - 1)
    first, last = [(y, x) for x, y in part], [(2 * half - 1 - y, half - 1 - x) for x, y in part]
    return [*first, *((x, y + half) for x, y in part), *((x + half, y + half) for x, y in part), *last]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_in_the_plane_it_is_hilberts_curve(order):
    expected = hilbert_of_the_plane(order)
    visited = [tuple(point) for point in coordinates(scan_order.hilbert((2**order,) * 2), (2**order,) * 2).tolist()]
    assert visited in (expected, [(y, x) for x, y in expected])


def test_hilbert_is_the_same_curve_as_ever():
    """Recorded: models that were trained along it would not be the same ones with another curve."""
    found = hashlib.sha256()
    for shape in (*product(range(1, 13), repeat=2), *product(range(1, 8), repeat=3), (20, 28, 20), (5, 7, 40)):
        found.update(scan_order.hilbert(shape).astype("<i4").tobytes())
    assert found.hexdigest() == HILBERT_OF_MANY


def mean_distance(order: np.ndarray, shape, apart: int) -> float:
    visited = coordinates(order, shape)
    return float(np.sqrt(np.square(visited[apart:] - visited[:-apart]).sum(axis=1)).mean())


@pytest.mark.parametrize("shape", [(31, 33, 35), (33, 33, 33), (32, 31, 31), (30, 33, 40), (20, 28, 20), (47, 32, 31)])
def test_hilbert_keeps_together_what_is_near_at_odd_sizes_too(shape):
    """Tokens that are 64 or 512 apart in the sequence are about as near each other as in the cube of 32."""
    of_cube = scan_order.hilbert((32, 32, 32))
    for apart in (64, 512):
        expected = mean_distance(of_cube, (32, 32, 32), apart)
        assert mean_distance(scan_order.hilbert(shape), shape, apart) < 1.12 * expected
        assert mean_distance(scan_order.raster(shape), shape, apart) > 1.2 * expected


@pytest.mark.parametrize("shape", [(41, 4, 4), (3, 2, 51), (1, 61, 4), (33, 2)])
def test_hilbert_walks_a_long_box_once(shape):
    """Not out and back along it, which would separate the two halves of a slice."""
    order = scan_order.hilbert(shape)
    positions = np.argsort(order).reshape(shape)
    for one_slice in np.moveaxis(positions, int(np.argmax(shape)), 0):
        assert one_slice.max() - one_slice.min() < 0.3 * len(order)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8), (5, 3), (1, 9, 4), (6, 1, 1), (3, 4, 2, 5), (4, 4, 4), (7, 6, 9)])
def test_morton_sorts_by_interleaved_bits(shape):
    order = scan_order.morton(shape)
    assert_permutation(order, shape)
    codes = [
        sum((value >> bit & 1) << (bit * len(shape) + len(shape) - 1 - axis)
            for axis, value in enumerate(voxel) for bit in range(4))
        for voxel in coordinates(order, shape).tolist()
    ]  # fmt: skip
    assert codes == sorted(codes)


@given(grids)
def test_morton_visits_every_token_of_any_grid(shape):
    assert_permutation(scan_order.morton(shape), shape)


def test_random_is_a_permutation_that_follows_the_seed():
    for shape in ((1,), (7, 1), (4, 5, 6)):
        assert_permutation(scan_order.random(shape, 3), shape)
    orders = {scan_order.random((4, 5, 6), seed).tobytes() for seed in range(10)}
    assert len(orders) == 10
    assert scan_order.random((120,)).tolist() == scan_order.random((4, 5, 6)).tolist()


def digest(shape) -> str:
    return hashlib.sha256(scan_order.random(shape).astype("<i4").tobytes()).hexdigest()


def test_random_is_the_same_wherever_it_is_drawn():
    """Recorded: models would not be the same ones with another permutation."""
    assert scan_order.random((3, 3)).tolist() == RANDOM_OF_NINE
    assert digest((20, 28, 20)) == RANDOM_OF_A_FEATURE_MAP
    code = (
        "import numpy, random; numpy.random.seed(5); numpy.random.rand(3); random.seed(7)\n"
        "from nnunetv2_mamba.ops import scan_order; print(scan_order.random((3, 3)).tolist())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(RANDOM_OF_NINE)


def test_drawing_it_leaves_numpys_own_generator_alone():
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    scan_order.random((4, 4))
    assert np.random.rand() == expected


@pytest.mark.parametrize("order", ORDERS, ids=lambda function: function.__name__)
def test_errors_name_the_argument(order):
    for shape in ((), (3, 0), (2048, 2048, 512)):
        with pytest.raises(ValueError, match="shape"):
            order(shape)
    with pytest.raises(ValueError, match="one to three axes"):
        scan_order.hilbert((2, 2, 2, 2))
