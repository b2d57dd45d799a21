"""Breadth-first search on a random graph, level by level, with a frontier queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 128


@dataclass(frozen=True)
class Data:
    """A directed graph in compressed rows, int32, shared: edge_start (vertices + 1,) and edges (count,).

    The search begins at the vertex `source`.
    """

    edge_start: NDArray[Any]
    edges: NDArray[Any]
    source: int


class BFS(Workload):
    """Distance of every vertex from the source in edges, -1 where there is no path.

    The order inside a frontier depends on which thread came first; the levels do not.
    """

    name = "bfs"
    pattern = "data-dependent reads and atomics over a graph; CPU and device pass one counter back and forth"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"vertices": 200, "degree": 3},
        "small": {"vertices": 50_000, "degree": 8},
        "medium": {"vertices": 1_000_000, "degree": 8},
        "large": {"vertices": 4_000_000, "degree": 16},
    }
    kernels = ("expand",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """`degree` edges a vertex on average, both ends uniform; the vertex with most edges is the source."""
        vertices = size["vertices"]
        count = vertices * size["degree"]
        starts = rng.integers(0, vertices, count)
        edge_start = space.zeros(vertices + 1, np.int32)
        np.cumsum(np.bincount(starts, minlength=vertices), out=edge_start[1:])
        edges = space.empty(count, np.int32)
        edges[:] = rng.integers(0, vertices, count, np.int32)
        return Data(edge_start, edges, int(np.argmax(np.diff(edge_start))))

    def reference(self, data: Data) -> Arrays:
        """Whole levels at a time: gather all neighbours of the frontier, keep those without a level."""
        level = np.full(data.edge_start.size - 1, -1, np.int32)
        level[data.source] = 0
        frontier = np.array([data.source])
        depth = 0
        while frontier.size:
            depth += 1
            neighbours = _gather(data.edge_start, data.edges, frontier)
            level[neighbours[level[neighbours] < 0]] = depth
            frontier = np.flatnonzero(level == depth)
        return {"level": level}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """One launch a level; the CPU reads the size of the next frontier in between."""
        vertices = data.edge_start.size - 1
        level = launch.space.full(vertices, -1, np.int32)
        frontier, following = (launch.space.empty(vertices, np.int32) for _ in range(2))
        size = launch.space.zeros(1, np.int32)
        level[data.source], frontier[0] = 0, data.source
        count, depth = 1, 0
        while count:
            depth += 1
            size[0] = 0
            args = (
                data.edge_start,
                data.edges,
                level,
                frontier,
                np.int32(count),
                following,
                size,
                np.int32(depth),
            )
            launch("expand", blocks(count, BLOCK), BLOCK, *args)
            count = int(size[0])
            frontier, following = following, frontier
        return {"level": level}


def _gather(edge_start: NDArray[Any], edges: NDArray[Any], vertices: NDArray[Any]) -> NDArray[Any]:
    """The neighbours of `vertices`, one after the other, repeated ones included."""
    first = edge_start[vertices].astype(np.int64)
    lengths = edge_start[vertices + 1] - first
    before = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) + np.repeat(first - before, lengths)
    return np.asarray(edges[positions])


WORKLOAD = BFS()
