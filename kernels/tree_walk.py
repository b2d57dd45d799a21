"""A walk over a tree that the CPU built with ordinary pointers.

The kernel follows the very addresses that the CPU stored, so this works only because both see the same memory
at the same addresses. Half of the nodes live in the space's arena, the other half in a plain NumPy array, and
most pointers lead from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 128

# `struct Node` of tree_walk.cu; left and right are addresses, 0 for none.
NODE = np.dtype(
    [
        ("key", np.int64),
        ("left", np.uint64),
        ("right", np.uint64),
        ("value", np.uint32),
        ("visits", np.uint32),
    ]
)


@dataclass(frozen=True)
class Data:
    """A search tree in two pools of nodes, and the keys to look up.

    pools: two arrays of NODE, the first shared, the second plain; the node of rank r in the order of keys is
    number slot[r] % half of pool slot[r] // half. keys (nodes,) int64, ascending; middle, the rank of the
    root; queries (n,) int64.
    """

    pools: tuple[NDArray[Any], NDArray[Any]]
    keys: NDArray[np.int64]
    slot: NDArray[np.int64]
    queries: NDArray[np.int64]

    @property
    def root(self) -> NDArray[Any]:
        """The root's record, as an array of one NODE."""
        pool, index = divmod(int(self.slot[(self.keys.size - 1) // 2]), self.pools[0].size)
        return self.pools[pool][index : index + 1]


class TreeWalk(Workload):
    """The value of each key looked up (-1 where it is missing), and how often each node was visited."""

    name = "tree_walk"
    pattern = (
        "pointer chasing through nodes the CPU linked; reads and atomics at random places of two memories"
    )
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"nodes": 100, "queries": 200},
        "small": {"nodes": 20_000, "queries": 50_000},
        "medium": {"nodes": 200_000, "queries": 1_000_000},
        "large": {"nodes": 4_000_000, "queries": 10_000_000},
    }
    kernels = ("tree_walk",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """A balanced tree over random even keys, in random slots; half of the queries are odd, so missing."""
        nodes = size["nodes"]
        keys = np.cumsum(rng.integers(1, 50, nodes)) * 2
        half = -(-nodes // 2)
        pools = (space.zeros(half, NODE), space.register(np.zeros(half, NODE)))
        slot = rng.permutation(2 * half)[:nodes]
        left, right = balanced(nodes)
        address = np.array([pool.ctypes.data for pool in pools], np.uint64)[slot // half]
        address += (slot % half * NODE.itemsize).astype(np.uint64)
        for number, pool in enumerate(pools):
            mine = np.flatnonzero(slot // half == number)
            where = slot[mine] % half
            pool["key"][where] = keys[mine]
            pool["value"][where] = mine
            for side, child in (("left", left), ("right", right)):
                pool[side][where] = np.where(child[mine] < 0, np.uint64(0), address[child[mine]])
        queries = keys[rng.integers(0, nodes, size["queries"])] + rng.integers(0, 2, size["queries"])
        return Data(pools, keys, slot, queries)

    def reference(self, data: Data) -> Arrays:
        """A binary search for the values; for the visits, all queries walk the tree of ranks in step."""
        rank = np.minimum(np.searchsorted(data.keys, data.queries), data.keys.size - 1)
        found = np.where(data.keys[rank] == data.queries, rank, -1).astype(np.int32)
        return {"found": found, "visits": _count_visits(data)}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """One launch, given the address of the root; then the CPU reads the counts out of the nodes."""
        found = launch.space.empty(data.queries.size, np.int32)
        n = data.queries.size
        given = data.root, data.queries, found, np.int32(n)
        launch("tree_walk", blocks(n, BLOCK), BLOCK, *given, reaches=data.pools)
        visits = np.concatenate([pool["visits"] for pool in data.pools])
        return {"found": found, "visits": visits[data.slot]}


def balanced(nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Left and right child, by rank, of every rank in the balanced tree over `nodes` ranks; -1 for none.

    The root of a range of ranks is its middle one, (first + last) // 2.
    """
    left, right = np.full(nodes, -1), np.full(nodes, -1)
    first, last = np.array([0]), np.array([nodes - 1])
    while first.size:
        middle = (first + last) // 2
        has_left, has_right = first < middle, middle < last
        left[middle[has_left]] = ((first + middle - 1) // 2)[has_left]
        right[middle[has_right]] = ((middle + 1 + last) // 2)[has_right]
        first, last = (
            np.concatenate([first[has_left], middle[has_right] + 1]),
            np.concatenate([middle[has_left] - 1, last[has_right]]),
        )
    return left, right


def _count_visits(data: Data) -> NDArray[np.uint32]:
    """How many queries pass through the node of each rank, uint32 (nodes,)."""
    left, right = balanced(data.keys.size)
    visits = np.zeros(data.keys.size, np.uint32)
    queries = data.queries
    at = np.full(queries.size, (data.keys.size - 1) // 2)
    while queries.size:
        visits += np.bincount(at, minlength=visits.size).astype(np.uint32)
        here = data.keys[at]
        at = np.where(queries < here, left[at], right[at])
        going = (queries != here) & (at >= 0)
        queries, at = queries[going], at[going]
    return visits


WORKLOAD = TreeWalk()
