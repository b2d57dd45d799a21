"""Scans, reductions, compaction (scan.cu) against NumPy; integers exactly, floats to the tolerance stated."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from cuda_programs import FOLDER, NAMES, program

import hmmemu as hmm

rng = np.random.default_rng(1)


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("scan")


@pytest.mark.parametrize(("n", "block"), [(1, 1), (33, 64), (1000, 1024), (777, 777)])
def test_hillis_steele(module: hmm.RawModule, n: int, block: int) -> None:
    x, out = rng.integers(-50, 50, n, np.int32), np.zeros(n, np.int32)
    module.get_function("hillis_steele")(1, block, (x, out, n), shared_mem=8 * block)
    np.testing.assert_array_equal(out, np.cumsum(x))


def test_blelloch(module: hmm.RawModule) -> None:
    n = 512
    x, out, total = rng.integers(0, 9, n).astype(np.float32), np.zeros(n, np.float32), np.zeros(1, np.float32)
    module.get_function("blelloch")(1, n // 2, (x, out, total, n), shared_mem=4 * (n + n // 32))
    np.testing.assert_array_equal(out, np.cumsum(x) - x)  # small integers: exact
    assert total[0] == x.sum()


def test_scan_over_blocks(module: hmm.RawModule) -> None:
    n, block = 100_003, 256
    blocks = -(-n // block)
    x = rng.integers(0, 2**32, n, np.uint32)
    out, sums, of_sums = np.zeros(n, np.uint32), np.zeros(blocks, np.uint32), np.zeros(blocks, np.uint32)
    scan = module.get_function("scan_blocks")
    scan(blocks, block, (x, out, sums, n))
    scan(1, 512, (sums, of_sums, None, blocks))
    module.get_function("add_sums")(blocks, block, (out, of_sums, n))
    np.testing.assert_array_equal(out, np.cumsum(x, dtype=np.uint32))


@pytest.mark.parametrize(
    ("name", "dtype", "block", "tolerance"),
    [
        ("dot<float, 256>", "f4", 256, 1e-5),
        ("dot<double, 64>", "f8", 64, 1e-13),
        ("dot<int, 512>", "i4", 512, 0),
    ],
)
def test_dot_products(module: hmm.RawModule, name: str, dtype: str, block: int, tolerance: float) -> None:
    n = 50_001
    x, y = (rng.integers(-9, 9, n).astype(dtype) + (0.25 if dtype != "i4" else 0) for _ in range(2))
    x, y, out = x.astype(dtype), y.astype(dtype), np.zeros(7, dtype)
    module.get_function(name)(7, block, (x, y, out, n))
    exact = float(np.dot(x.astype("f8"), y.astype("f8")))
    assert abs(float(out.sum(dtype="f8")) - exact) <= tolerance * float(np.abs(x * y).sum(dtype="f8"))


def test_the_last_block_adds_all(module: hmm.RawModule) -> None:
    n, blocks = 123_457, 40
    x, partial, result = rng.random(n, np.float32), np.zeros(blocks), np.zeros(1)
    for _ in range(3):  # the counter is left at zero for the next launch
        result[0] = 0
        module.get_function("sum_in_one_launch")(blocks, 128, (x, partial, result, n))
        np.testing.assert_allclose(result[0], x.sum(dtype=np.float64), rtol=1e-12)
    assert not module.get_global("blocks_done").any()


def test_segmented_scan(module: hmm.RawModule) -> None:
    n, block = 1024, 256
    x = rng.integers(-9, 9, n).astype(np.float32)
    heads = (rng.random(n) < 0.05).astype(np.uint8)
    out = np.zeros(n, np.float32)
    module.get_function("segmented_scan")(n // block, block, (x, heads, out))
    expected, sum_ = [], np.float32(0)
    for i in range(n):
        sum_ = x[i] if heads[i] or i % block == 0 else sum_ + x[i]
        expected.append(sum_)
    np.testing.assert_array_equal(out, expected)


def test_compaction(module: hmm.RawModule) -> None:
    n = 10_001
    x, out, count = rng.integers(0, 100, n, np.int32), np.full(n, -1, np.int32), np.zeros(1, np.int32)
    module.get_function("compact")(40, 256, (x, n, 70, out, count))
    kept = x[x > 70]
    assert count[0] == kept.size
    np.testing.assert_array_equal(np.sort(out[: kept.size]), np.sort(kept))
    assert (out[kept.size :] == -1).all()


@pytest.mark.parametrize("block", [32, 100, 256])
def test_aggregated_atomics(module: hmm.RawModule, block: int) -> None:
    n = 5000
    x, count, tickets = rng.integers(0, 1000, n, np.int32), np.zeros(1, np.int32), np.full(n, -1, np.int32)
    module.get_function("take_tickets")(5, block, (x, n, count, tickets))
    asked = x % 3 == 0
    assert count[0] == asked.sum() and (tickets[~asked] == -1).all()
    np.testing.assert_array_equal(np.sort(tickets[asked]), np.arange(count[0]))


@pytest.mark.parametrize("block", [64, 96, 1000])
def test_match_any_counts(module: hmm.RawModule, block: int) -> None:
    n = 3333
    keys, counts = rng.integers(0, 10, n, np.int32), np.zeros(10, np.uint32)
    module.get_function("count_keys")(-(-n // block), block, (keys, n, counts))
    np.testing.assert_array_equal(counts, np.bincount(keys, minlength=10))


@pytest.mark.parametrize("width", [8, 16])
def test_shuffles_of_part_of_a_warp(module: hmm.RawModule, width: int) -> None:
    x, out = rng.random(256, np.float32), np.zeros(256, np.float32)
    module.get_function(f"row_maxima<{width}>")(2, 128, (x, out))
    rows = np.repeat(x.reshape(-1, width).max(1), width)
    np.testing.assert_array_equal(out, rows - x[np.arange(256) ^ 1])


@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ is not installed")
def test_a_variable_that_only_the_leader_sets_under_clang(
    space: hmm.AddressSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C++ calls it undefined to pass such a variable on; CUDA programs do it, and nvcc lets them."""
    monkeypatch.setenv("CXX", "clang++")
    test_aggregated_atomics(hmm.RawModule(path=FOLDER / "scan.cu", name_expressions=NAMES["scan"]), 96)
