"""Random graphs in compressed rows, and their neighbours by NumPy; shared by the graph workloads.

Nothing here is shared between threads, so no lock guards it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm


@dataclass(frozen=True)
class Graph:
    """A directed graph: edge_start (vertices + 1,) and edges (count,), int32, in the memory of a space.

    The edges of vertex v lead to `edges[edge_start[v] : edge_start[v + 1]]`. Searches begin at the vertex `source`.
    """

    edge_start: NDArray[Any]
    edges: NDArray[Any]
    source: int

    @property
    def vertices(self) -> int:
        """How many vertices there are."""
        return int(self.edge_start.size - 1)

    def out_edges(self, vertices: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The edges that leave `vertices`, one vertex after the other.

        Returns:
            For each edge its place in `edges`, and which of the given vertices it leaves; int64.
        """
        first = self.edge_start[vertices].astype(np.int64)
        lengths = self.edge_start[vertices + 1] - first
        before = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(first - before, lengths)
        return places, np.repeat(np.arange(len(lengths)), lengths)


def random_graph(space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Graph:
    """`degree` edges for each of `vertices`, both ends uniform; the vertex with most edges is the source."""
    vertices = size["vertices"]
    count = vertices * size["degree"]
    starts = rng.integers(0, vertices, count)
    edge_start = space.zeros(vertices + 1, np.int32)
    np.cumsum(np.bincount(starts, minlength=vertices), out=edge_start[1:])
    edges = space.empty(count, np.int32)
    edges[:] = rng.integers(0, vertices, count, np.int32)
    return Graph(edge_start, edges, int(np.argmax(np.diff(edge_start))))


def breadth_first_levels(graph: Graph) -> NDArray[np.int32]:
    """The distance of every vertex from the source in edges, -1 where there is no path; by NumPy alone.

    Whole levels at a time: gather all neighbours of the frontier, keep those without a level.
    """
    level = np.full(graph.vertices, -1, np.int32)
    level[graph.source] = 0
    frontier = np.array([graph.source])
    depth = 0
    while frontier.size:
        depth += 1
        neighbours = graph.edges[graph.out_edges(frontier)[0]]
        level[neighbours[level[neighbours] < 0]] = depth
        frontier = np.flatnonzero(level == depth)
    return level
