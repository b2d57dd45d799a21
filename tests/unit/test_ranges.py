"""Where arrays lie: extents, roots, kinds of memory, range arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.array_utils import byte_bounds
from steady import STEADY

from hmmemu._native import memory_of
from hmmemu.ranges import extent, root, subtract

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=6)


@STEADY
@given(RANGES, RANGES)
def test_subtract_is_a_difference_of_sets(ranges: list, holes: list) -> None:
    ranges, holes = ([(a, a + n) for a, n in pairs] for pairs in (ranges, holes))
    pages = {i for a, b in ranges for i in range(a, b)} - {i for a, b in holes for i in range(a, b)}
    assert {i for a, b in subtract(ranges, holes) for i in range(a, b)} == pages


def test_extent_covers_strides_of_either_sign() -> None:
    x = np.zeros((10, 10), np.int32)
    assert extent(x[::-1, ::2]).end - extent(x[::-1, ::2]).begin == 9 * 40 + 8 * 4 + 4
    assert extent(x[5:2:-1, 3]).begin == x.ctypes.data + 3 * 40 + 12
    assert extent(x[:0]).begin == extent(x[:0]).end


SHAPES = st.lists(st.integers(0, 4), min_size=0, max_size=3)
STEPS = st.lists(st.sampled_from((1, 2, -1, -3)), min_size=3, max_size=3)
DTYPES = st.sampled_from(("u1", "<f8", ">i4", "M8[ns]", "O", "S3", "S0", "f2", "u1,f8", "c16"))


@STEADY
@given(SHAPES, STEPS, DTYPES, st.booleans())
def test_extent_is_what_numpy_says_for_any_dtype_and_strides(shape, steps, dtype, writeable) -> None:
    x = np.zeros(shape, np.dtype(dtype))[(..., *(slice(None, None, step) for step in steps[: len(shape)]))]
    x.flags.writeable = writeable
    for array in (x, x.T, np.broadcast_to(x, (2, *x.shape))):
        address, *memory = memory_of(array)
        assert address == array.ctypes.data
        assert tuple(memory) == extent(array) == (byte_bounds(array) if array.size else (0, 0))


def test_what_is_no_array_has_no_extent() -> None:
    with pytest.raises(TypeError, match="a bytes-like object is required, not 'int'"):
        memory_of(7)


def test_pages_around_and_within() -> None:
    x = np.zeros(3 * 4096, np.uint8)
    memory = extent(x)
    first, end = memory.pages
    assert first <= memory.begin < first + 4096 and end - 4096 < memory.end <= end
    inner = memory.inner_pages
    assert memory.begin <= inner[0] and inner[1] <= memory.end and inner[1] - inner[0] in (8192, 12288)


def test_root_is_the_array_that_owns() -> None:
    x = np.zeros((4, 4))
    assert root(x[1:].T.reshape(-1)[::2].view(np.int64)) is not x  # reshape copied
    assert root(x[1:].T[::2]) is x
