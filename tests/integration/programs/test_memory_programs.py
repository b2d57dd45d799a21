"""Pointers that both sides follow, shared memory, warps that diverge, types, printf (memory.cu)."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

rng = np.random.default_rng(7)
F4 = np.float32
NODE = np.dtype([("next", "u8"), ("value", "i8")])
LEAF = np.dtype([("key", "i4"), ("value", "i4"), ("left", "u8"), ("right", "u8")])
ENTRY = np.dtype([("key", "u4"), ("count", "u4"), ("next", "u8")])


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("memory")


def place(array: np.ndarray, i: int) -> int:
    return array.ctypes.data + i * array.itemsize


def test_a_linked_list(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    n = 5000
    nodes, order = space.zeros(n, NODE), rng.permutation(n)
    nodes["value"] = rng.integers(-(10**12), 10**12, n)
    nodes["next"][order[:-1]] = nodes.ctypes.data + order[1:] * NODE.itemsize
    head, sum_ = np.array([place(nodes, order[0])], np.uint64), np.zeros(1, np.int64)
    module.get_function("reverse_list")(1, 1, (head, sum_))
    assert sum_[0] == nodes["value"].sum()
    at, seen = int(head[0]), []  # the CPU follows what the kernel linked
    while at:
        i = (at - nodes.ctypes.data) // NODE.itemsize
        seen.append(i)
        at = int(nodes["next"][i])
    assert seen == order[::-1].tolist()


def in_order(leaves: np.ndarray, root: int) -> list[tuple[int, int]]:
    found, stack, at = [], [], root
    while at or stack:
        while at:
            leaf = leaves[(at - leaves.ctypes.data) // LEAF.itemsize]
            stack.append(leaf)
            at = int(leaf["left"])
        leaf = stack.pop()
        found.append((int(leaf["key"]), int(leaf["value"])))
        at = int(leaf["right"])
    return found


def test_a_binary_tree(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    n = 2000
    leaves, root = space.zeros(n, LEAF), space.zeros(1, np.uint64)
    leaves["key"], leaves["value"] = rng.integers(0, 1500, n), rng.integers(1, 9, n)
    sums = np.bincount(leaves["key"], leaves["value"], 1500)
    module.get_function("insert_in_tree")(20, 100, (root, leaves, n))
    expected = [(int(k), int(sums[k])) for k in np.unique(leaves["key"])]
    assert in_order(leaves, int(root[0])) == expected  # equal keys met in one leaf
    keys, values = np.arange(1600, dtype=np.int32), np.zeros(1600, np.int32)
    module.get_function("find_in_tree")(13, 128, (int(root[0]), keys, 1600, values))
    there = dict(expected)
    assert values.tolist() == [there.get(k, -1) for k in range(1600)]


def test_a_hash_table(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    n, buckets = 3000, 64
    heads, pool, used = space.zeros(buckets, np.uint64), space.zeros(n, ENTRY), space.zeros(1, np.uint32)
    keys = rng.integers(0, 400, n, np.uint32)
    module.get_function("hash_insert")(4, 96, (heads, buckets, pool, used, keys, n))
    assert used[0] == n
    chained = 0  # the CPU walks the chains
    for bucket, at in enumerate(heads.tolist()):
        while at:
            entry = pool[(at - pool.ctypes.data) // ENTRY.itemsize]
            assert int(entry["key"]) * 2654435761 % 2**32 % buckets == bucket
            at, chained = int(entry["next"]), chained + 1
    assert chained == n
    wanted, counts = np.arange(500, dtype=np.uint32), np.zeros(500, np.uint32)
    module.get_function("hash_count")(4, 128, (heads, buckets, wanted, 500, counts))
    np.testing.assert_array_equal(counts, np.bincount(keys, minlength=500))


def test_rows_by_pointers(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    data, rows, sums = space.zeros((7, 50), F4), np.zeros(7, np.uint64), np.zeros(50, F4)
    data[:] = rng.integers(0, 99, data.shape)
    module.get_function("rows_of")(1, 7, (rows, data, 50, 7))
    assert rows.tolist() == [data[6 - y].ctypes.data for y in range(7)]
    own = space.full(50, 1000, F4)
    rows[3] = own.ctypes.data  # and the CPU replaces one
    module.get_function("add_rows")(1, 33, (rows, 50, 7, sums))
    np.testing.assert_array_equal(sums, data.sum(0) - data[3] + 1000)


def test_dynamic_shared_memory_cut_into_arrays(module: hmm.RawModule) -> None:
    n = 77
    x, d, i, s = rng.random(n), np.zeros(n), np.zeros(n, np.int32), np.zeros(n, np.int16)
    module.get_function("carved")(1, 96, (x, n, d, i, s), shared_mem=n * 14)
    t = np.arange(n)[::-1]
    np.testing.assert_array_equal(d, 2 * x[::-1])
    np.testing.assert_array_equal(i, 3 * t)
    np.testing.assert_array_equal(s, 5 * t)


def test_a_union_in_shared_memory(module: hmm.RawModule) -> None:
    n, blocks = 100, 3
    x, maxima, ranks = (
        rng.random((blocks, n), F4),
        np.zeros((blocks, 2), F4),
        np.zeros((blocks, 64), np.int32),
    )
    module.get_function("phases")(blocks, 128, (x, maxima, ranks, n))
    np.testing.assert_array_equal(maxima, np.stack([x.max(1), x.argmax(1)], 1).astype(F4))
    for row, best, counts in zip(x, maxima[:, 0], ranks, strict=True):
        np.testing.assert_array_equal(counts, np.bincount((row * F4(63) / best).astype(int), minlength=64))


def test_constants_of_every_shape(module: hmm.RawModule) -> None:
    out, letters, t = np.zeros(12, F4), np.zeros(12, np.uint8), np.arange(12)
    module.get_function("constants")(1, 12, (out, letters))
    weight, board = np.arange(1, 7).reshape(2, 3), np.arange(1, 13).reshape(3, 4)
    expected = weight[t % 2, t % 3] * board[t % 3, t % 4] + 100 * ((t >= 2) & (t < 5)) + np.where(t % 2, 4, 2)
    np.testing.assert_array_equal(out, expected)
    assert letters.tobytes() == b"ACGTACGTACGT"
    limits = module.get_global("limits").view([("range", "i4", 2), ("weight", "f4", (2, 3))])
    assert limits["range"].tolist() == [[2, 5]]
    limits["weight"] *= 2
    module.get_function("constants")(1, 12, (out, letters))
    np.testing.assert_array_equal(out - expected, weight[t % 2, t % 3] * board[t % 3, t % 4])


def test_divergent_warps(module: hmm.RawModule) -> None:
    out, v = np.zeros(64, np.int32), np.arange(64)
    module.get_function("divergent")(1, 64, (out,))
    expected = np.zeros(64, int)
    for w in (0, 32):
        low = v[w : w + 16] ^ 1
        ballot = sum(low[lane] % 4 == 3 for lane in range(0, 16, 2))
        for lane in range(16):
            expected[w + lane] = low[lane] + (low[15] if lane % 2 else ballot) + 1000
        for lane in range(16, 32):
            peers = sum(1 << k for k in range(16, 32) if k // 3 == lane // 3)
            expected[w + lane] = w + lane + (peers >> 16) + 5
    np.testing.assert_array_equal(out, expected[np.arange(64) ^ 31])


def test_volatile_shared_memory_within_a_warp(module: hmm.RawModule) -> None:
    out = np.zeros(32, np.int32)
    module.get_function("relay")(1, 32, (out,))
    np.testing.assert_array_equal(out, (np.arange(32) + 5) % 32 + 10)


def test_breadth_first_search(module: hmm.RawModule) -> None:
    n = 1200
    edges = rng.integers(0, n, (n, 3))
    edges[0, :] = [1, 2, 3]
    starts, flat = np.arange(0, 3 * n + 1, 3, dtype=np.int32), edges.ravel().astype(np.int32)
    level, queue, following = np.full(n, -1, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
    level[0], count, depth = 0, 1, 0
    while count:
        depth, left = depth + 1, np.zeros(1, np.int32)
        grid = -(-count // 256)
        module.get_function("visit")(grid, 256, (starts, flat, level, depth, queue, count, following, left))
        queue, following, count = following, queue, int(left[0])
    expected, front, depth = np.full(n, -1), {0}, 0
    while front:
        expected[list(front)] = depth
        front = {int(e) for node in front for e in edges[node] if expected[e] < 0}
        depth += 1
    np.testing.assert_array_equal(level, expected)


def test_the_heap_of_the_device(module: hmm.RawModule) -> None:
    n, t = 96, np.arange(96)
    out = np.zeros(n, np.int32)
    module.get_function("allocate")(1, 1, (n,))  # lives until another launch frees it
    module.get_function("use_and_free")(1, n, (n, out))
    np.testing.assert_array_equal(out, (n - 1 - t) ** 2 + 5 * t)
    assert not module.get_global("kept").any()


def test_types_of_every_width(module: hmm.RawModule) -> None:
    n = 100
    kinds = ("i1", "u1", "i2", "u2", "i8")
    a, b, c, d, e = (rng.integers(np.iinfo(k).min, np.iinfo(k).max, n, k) for k in kinds)
    out = np.zeros(n, np.uint64)
    module.get_function("types")(1, n, (a, b, c, d, e, out))
    for i in range(n):
        fields = (int(b[i]) & 31) << 60 | (int(d[i]) & 2047) << 40 | int(c[i]) & 0xFFFF
        assert int(out[i]) == ((int(e[i]) + int(a[i]) * int(c[i])) ^ fields) % 2**64


def test_printf_formats(module: hmm.RawModule, capsys: pytest.CaptureFixture[str]) -> None:
    text = np.frombuffer(b"text\0", np.uint8)
    module.get_function("prints")(2, 32, (text,))
    assert capsys.readouterr().out.splitlines() == [
        "-3|   42|42   |00042|+42|ff|FF|0xff|10|4000000000|q|%",
        "1.500000|2.35|    -3.142|1.234568e+04|1e-05|1E+10|0x1p+0",
        "-1234567890123|12345678901234567890|deadbeefcafe|-5|-7|200|4",
        "text|     right|left  |cu|    12|11",
    ]
