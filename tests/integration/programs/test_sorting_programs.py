"""Sorting networks, a radix sort, a merge (sorting.cu) against NumPy, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

rng = np.random.default_rng(2)


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("sorting")


@pytest.mark.parametrize(("threads", "ascending"), [(512, 1), (512, 0), (16, 1)])
def test_bitonic_sort_of_blocks(module: hmm.RawModule, threads: int, ascending: int) -> None:
    n, blocks = 2 * threads, 3
    keys = rng.permutation(n * blocks).astype(np.uint32).reshape(blocks, n)
    values, before = (keys * 7).astype(np.uint32), keys.copy()
    module.get_function("bitonic_block")(blocks, threads, (keys, values, ascending))
    expected = np.sort(before, axis=1)
    np.testing.assert_array_equal(keys, expected if ascending else expected[:, ::-1])
    np.testing.assert_array_equal(values, keys * 7)


def test_bitonic_sort_in_global_memory(module: hmm.RawModule) -> None:
    n = 1024
    x = rng.standard_normal(n).astype(np.float32)
    expected, step, k = np.sort(x), module.get_function("bitonic_step"), 2
    while k <= n:
        j = k // 2
        while j:
            step(n // 128, 128, (x, j, k))
            j //= 2
        k *= 2
    np.testing.assert_array_equal(x, expected)


def test_odd_even_merge_sort(module: hmm.RawModule) -> None:
    n = 256
    x = rng.integers(-(2**15), 2**15, (4, n)).astype(np.int16)
    expected = np.sort(x, axis=1)
    module.get_function("odd_even_merge")(4, n // 2, (x, n), shared_mem=2 * n)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("n", [256, 3001])
def test_radix_sort(module: hmm.RawModule, n: int) -> None:
    blocks = -(-n // 256)
    keys, other = rng.integers(0, 2**16, n, np.uint32), np.zeros(n, np.uint32)
    counts, expected = np.zeros(16 * blocks, np.uint32), np.sort(keys)
    for shift in range(0, 16, 4):
        module.get_function("radix_count")(blocks, 256, (keys, n, shift, counts))
        module.get_function("radix_offsets")(1, 1, (counts, counts.size))
        module.get_function("radix_scatter")(blocks, 256, (keys, n, shift, counts, other))
        keys, other = other, keys
    np.testing.assert_array_equal(keys, expected)
    assert module.get_function("radix_scatter").attributes["max_threads_per_block"] == 256


@pytest.mark.parametrize(("na", "nb"), [(1000, 700), (1, 0), (0, 5)])
def test_merge_by_rank(module: hmm.RawModule, na: int, nb: int) -> None:
    a, b = (np.sort(rng.integers(0, 300, k)).astype(np.float64) for k in (na, nb))
    out = np.zeros(na + nb)
    module.get_function("merge_by_rank")(14, 128, (a, na, b, nb, out))
    np.testing.assert_array_equal(out, np.sort(np.concatenate([a, b])))


def test_a_sort_that_votes_when_to_end(module: hmm.RawModule) -> None:
    n = 101
    rounds = np.zeros(1, np.int32)
    x = np.arange(n, 0, -1, dtype=np.int32)
    module.get_function("transposition_sort")(1, 64, (x, n, rounds))
    np.testing.assert_array_equal(x, np.arange(1, n + 1))
    assert n // 2 <= rounds[0] <= n // 2 + 2
    module.get_function("transposition_sort")(1, 64, (x, n, rounds))
    assert rounds[0] == 1
