"""Breadth-first search on a random graph, level by level, with a frontier queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

import hmmemu as hmm
from hmmemu.kernels.graphs import Graph, breadth_first_levels, random_graph
from hmmemu.kernels.workload import Arrays, Launcher, Workload, blocks

BLOCK = 128


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

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Graph:
        """A uniform random graph."""
        return random_graph(space, size, rng)

    def reference(self, data: Graph) -> Arrays:
        """Level by level."""
        return {"level": breadth_first_levels(data)}

    def compute(self, launch: Launcher, data: Graph) -> Arrays:
        """One launch a level; the CPU reads the size of the next frontier in between."""
        vertices = data.vertices
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


WORKLOAD = BFS()
