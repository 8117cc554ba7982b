import weakref
from itertools import permutations, product

import numpy as np
import pytest
import torch
from golden_files import GoldenFile
from hypothesis import given
from hypothesis import strategies as st
from shared_files import SHARED, why_absent
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.ops import scan_order
from nnunetv2_mamba.ops.scan_order.tables import inverse

ORDERS = ("golden", "medsegmamba_scan_orders.pt")
ABSENT = why_absent(*ORDERS)

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def coordinates(order: np.ndarray, shape) -> np.ndarray:
    return np.stack(np.unravel_index(order, shape), axis=-1)


@given(shapes, st.randoms())
def test_raster_walks_the_axes_from_slow_to_fast(shape, random):
    axes = random.sample(range(len(shape)), len(shape))
    visited = coordinates(scan_order.raster(shape, axes), shape)
    assert [tuple(v[axes]) for v in visited] == list(product(*(range(shape[a]) for a in axes)))


def test_raster_without_axes_is_the_token_order():
    assert scan_order.raster((3, 2, 4)).tolist() == list(range(24))


@given(shapes)
def test_inter_slice_is_a_stack_of_the_slices(shape):
    slices = np.arange(np.prod(shape)).reshape(shape[0], -1)
    assert scan_order.inter_slice(shape).tolist() == np.stack(list(slices), axis=-1).reshape(-1).tolist()


@given(shapes, st.randoms())
def test_serpentine_visits_every_voxel_in_unit_steps(shape, random):
    axes = random.sample(range(len(shape)), len(shape))
    start = [random.random() < 0.5 for _ in shape]
    order = scan_order.serpentine(shape, axes, start)
    assert sorted(order) == list(range(len(order)))
    visited = coordinates(order, shape)
    assert (np.abs(np.diff(visited, axis=0)).sum(axis=1) == 1).all()
    assert visited[0].tolist() == [(size - 1) * high for size, high in zip(shape, start, strict=True)]


def test_serpentine_reverses_odd_rows_and_retraces_odd_planes():
    order = scan_order.serpentine((2, 2, 3)).tolist()
    assert order == [0, 1, 2, 5, 4, 3, 9, 10, 11, 8, 7, 6]


def test_reverse():
    assert scan_order.reverse(scan_order.raster((4,))).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_ss3d_equals_the_reference(size):
    """The orders in which the released MedSegMamba's voxels reach its scans."""
    expected = GoldenFile("ss3d").array(f"orders/{size}")
    for orientation in range(6):
        assert torch.equal(scan_order.ss3d((size,) * 3, orientation).long(), expected[orientation].long())


@pytest.mark.slow
@pytest.mark.skipif(bool(ABSENT), reason=str(ABSENT))
def test_ss3d_equals_the_reference_on_the_published_grid():
    """12x12x12, the grid of MedSegMamba's patches."""
    expected = torch.load(SHARED.joinpath(*ORDERS), weights_only=True)["orders"][12]
    for orientation in range(6):
        assert torch.equal(scan_order.ss3d((12,) * 3, orientation).long(), expected[orientation])


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 5, 3), (1, 4, 6), (3, 5), (4, 1)])
@pytest.mark.parametrize("orientation", range(6))
def test_ss3d_holds_four_paths_and_their_reversals(shape, orientation):
    table = scan_order.ss3d(shape, orientation)
    assert table.shape == (8, np.prod(shape))
    assert torch.equal(table[4:], table[:4].flip(1))


@pytest.mark.parametrize("shape", [(3, 5), (4, 6), (4, 3), (5, 2)])
def test_ss3d_of_a_plane_holds_all_its_serpentines(shape):
    serpentines = {
        tuple(scan_order.serpentine(shape, axes, start).tolist())
        for axes in permutations(range(2))
        for start in product((False, True), repeat=2)
    }
    for orientation in range(6):
        assert {tuple(path.tolist()) for path in scan_order.ss3d(shape, orientation)} == serpentines


def test_ss3d_alternates_rows_and_columns_of_a_plane():
    """From the first token, then from the other end of a row or column."""
    table = scan_order.ss3d((2, 3), 0)[:4]
    assert table.tolist() == [[0, 1, 2, 5, 4, 3], [0, 3, 4, 1, 2, 5], [2, 1, 0, 3, 4, 5], [3, 0, 1, 4, 5, 2]]
    assert torch.equal(scan_order.ss3d((2, 3), 1)[:4], table[[1, 0, 3, 2]])


def test_ss3d_of_a_line_is_there_and_back():
    assert scan_order.ss3d((3,), 4).tolist() == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize(
    "table",
    [scan_order.unidirectional, scan_order.bidirectional, scan_order.tri_oriented, scan_order.six_axes],
    ids=lambda f: f.__name__,
)
@given(shape=shapes)
def test_tables_are_permutations_ready_for_the_ops(table, shape):
    paths = table(shape)
    assert paths.dtype == torch.int32 and paths.is_contiguous()
    assert torch.equal(paths.sort(dim=1).values, torch.arange(np.prod(shape), dtype=torch.int32).expand_as(paths))


def test_tri_oriented_directions():
    paths = scan_order.tri_oriented((2, 3))
    assert paths.tolist() == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [0, 3, 1, 4, 2, 5]]
    assert scan_order.bidirectional((2, 3)).tolist() == paths[:2].tolist()
    assert scan_order.unidirectional((2, 3)).tolist() == paths[:1].tolist()


@given(shape=shapes)
def test_six_axes_are_rasters_with_each_axis_as_the_fastest_and_their_reversals(shape):
    table = scan_order.six_axes(shape).numpy()
    dims = len(shape)
    assert len(table) == 2 * dims
    for path, back in zip(table[:dims], table[dims:], strict=True):
        assert np.array_equal(back, path[::-1])
    fastest = {axis: scan_order.raster(shape, [*range(axis + 1, dims), *range(axis + 1)]) for axis in range(dims)}
    order = (dims - 1, *range(dims - 1))  # weights have a row for each path
    assert [path.tobytes() for path in table[:dims]] == [fastest[axis].tobytes() for axis in order]


NAMES = ("raster", "bidirectional", "tri_oriented", "six_axes", "ss3d", "morton", "hilbert", "random")


@pytest.mark.parametrize("name", NAMES)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_with_reverse_every_path_is_walked_both_ways(name, shape):
    one, both = scan_order.table(name, shape), scan_order.table(f"{name}+reverse", shape)
    assert torch.equal(both[: len(one)], one)
    paths = [tuple(path) for path in both.tolist()]
    assert {path[::-1] for path in paths} == {*paths}
    assert torch.equal(both.sort(dim=1).values, torch.arange(np.prod(shape), dtype=torch.int32).expand_as(both))


def test_reverse_adds_only_the_reversals_that_are_missing():
    shape = (4, 5, 6)  # where no two paths coincide
    counts = {name: len({*map(tuple, scan_order.table(f"{name}+reverse", shape).tolist())}) for name in NAMES}
    assert counts == {
        "raster": 2, "bidirectional": 2, "tri_oriented": 4, "six_axes": 6, "ss3d": 8, "morton": 2, "hilbert": 2,
        "random": 2,
    }  # fmt: skip
    for name, count in counts.items():
        assert scan_order.directions(f"{name}+reverse", 3) == count == len(scan_order.table(f"{name}+reverse", shape))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 4)])
def test_number_of_directions(name, shape):
    assert scan_order.directions(name, len(shape)) == len(scan_order.table(name, shape))


def test_all_axis_orders_differ():
    assert len({scan_order.raster((2, 3, 4), axes).tobytes() for axes in permutations(range(3))}) == 6


def test_tables_are_shared():
    assert scan_order.tri_oriented((2, 3, 4)) is scan_order.tri_oriented([2, 3, 4], "cpu")
    assert scan_order.ss3d((2, 3, 4), 0) is not scan_order.ss3d((2, 3, 4), 1)


def test_a_table_first_made_for_inference_serves_training():
    shape = (2, 3, 11)
    with torch.inference_mode():
        scan_order.tri_oriented(shape)
    assert not scan_order.tri_oriented(shape).is_inference()


def test_a_table_made_under_fake_tensors_stays_there():
    shape = (2, 3, 13)
    with FakeTensorMode() as mode:
        fake = scan_order.tri_oriented(shape)
        assert fake.fake_mode is mode and fake.shape == (3, 78)
    assert type(scan_order.tri_oriented(shape)) is torch.Tensor
    with FakeTensorMode() as mode:
        assert scan_order.tri_oriented(shape).fake_mode is mode


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scan_order.raster(()), "shape"),
        (lambda: scan_order.raster((2, 0)), "shape"),
        (lambda: scan_order.raster((2048, 2048, 2048)), "int32"),
        (lambda: scan_order.raster((2, 3), (0, 0)), "axes"),
        (lambda: scan_order.inter_slice((2, 3), 2), "axis"),
        (lambda: scan_order.serpentine((2, 3), (0, 1), (True,)), "start"),
        (lambda: scan_order.ss3d((2, 3, 4), 6), "orientation"),
        (lambda: scan_order.table("spiral", (2, 3)), "name must be one of raster, .* random, or one .* got 'spiral'"),
        (lambda: scan_order.table("raster+reverse+reverse", (2, 3)), "got 'raster.reverse.reverse'"),
        (lambda: scan_order.ss3d((2, 3, 4, 5), 0), "one to three axes"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_table_of_a_graph_is_on_the_device_that_is_asked_for():
    with FakeTensorMode():
        for device in ("cpu", "cuda"):
            table = torch.ops.nnunetv2_mamba.scan_order_table("bidirectional", [2, 3], torch.device(device), [])
            assert (table.device.type, table.dtype, table.shape) == (device, torch.int32, (2, 6))


def test_an_inverse_has_the_positions_and_is_made_once_for_a_table():
    table = scan_order.tri_oriented((3, 4, 5))
    positions = inverse(table)
    assert torch.equal(torch.gather(table, 1, positions.long()), torch.arange(60).int().expand(3, 60))
    assert inverse(table) is positions and positions.dtype == torch.int32
    own = table.clone()
    assert inverse(own) is not positions
    own.copy_(own.flip(0))
    assert torch.equal(inverse(own), positions.flip(0))


def test_inverses_do_not_outlive_their_tables_or_leave_a_fake_mode():
    table = scan_order.unidirectional((2, 3)).clone()
    kept = weakref.ref(inverse(table))
    del table
    assert kept() is None
    table = scan_order.unidirectional((2, 3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        inverse(table)
    assert type(inverse(table)) is torch.Tensor
    with torch.inference_mode():
        table = scan_order.unidirectional((2, 5))
        assert not inverse(table).is_inference()
        inverse(table.clone())
