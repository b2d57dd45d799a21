"""Shortest paths from one vertex, by rounds that switch between CPU and device with the size of the worklist.

The idea is that of the workload SSSP in the CHAI benchmarks (Gomez-Luna et al., ISPASS 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.graphs import Graph, random_graph
from hmmemu.kernels.worklist import Worklist
from hmmemu.kernels.workload import Arrays, Launcher, Workload

UNREACHED = np.iinfo(np.int32).max
LONGEST = 100  # weight of an edge


@dataclass(frozen=True)
class Data:
    """A graph, the weight of each edge (int32, 1 to LONGEST), and from how many vertices on a list is the device's."""

    graph: Graph
    weights: NDArray[Any]
    switch: int


class SSSP(Workload):
    """Length of the shortest way from the source to every vertex, UNREACHED where there is none.

    A vertex is taken up again whenever a shorter way to it is found, so the rounds depend on who came first; the
    lengths do not.
    """

    name = "sssp"
    pattern = "CPU (short worklists) and device (long ones) in turn take atomic minima of one array"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"vertices": 200, "degree": 3, "switch": 16},
        "small": {"vertices": 50_000, "degree": 8, "switch": 100},
        "medium": {"vertices": 1_000_000, "degree": 8, "switch": 1000},
        "large": {"vertices": 2_000_000, "degree": 8, "switch": 1000},
    }
    kernels = ("relax",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """A uniform random graph with uniform weights."""
        graph = random_graph(space, size, rng)
        weights = space.empty(graph.edges.size, np.int32)
        weights[:] = rng.integers(1, LONGEST + 1, weights.size, np.int32)
        return Data(graph, weights, size["switch"])

    def reference(self, data: Data) -> Arrays:
        """Rounds of all vertices that came nearer in the round before."""
        distance = np.full(data.graph.vertices, UNREACHED, np.int32)
        distance[data.graph.source] = 0
        frontier = np.array([data.graph.source])
        while frontier.size:
            before = distance.copy()
            np.minimum.at(distance, *_offers(data, distance, frontier))
            frontier = np.flatnonzero(distance < before)
        return {"distance": distance}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """A round a turn."""
        graph = data.graph
        distance = launch.space.full(graph.vertices, UNREACHED, np.int32)
        queued = launch.space.zeros(graph.vertices, np.int32)  # the last round in which it was appended
        distance[graph.source] = 0

        def offer(vertex: int, length: int, turn: int) -> bool:
            """Whether it is shorter, and the vertex not on the list yet."""
            nearer = int(hmm.atomic_min(distance, vertex, length)) > length
            return nearer and hmm.atomic_exch(queued, vertex, turn) != turn

        def relax(frontier: NDArray[Any], turn: int) -> list[int]:
            """NumPy finds the ways that seem shorter, atomic operations settle it."""
            ends, lengths = _offers(data, distance, frontier)
            shorter = lengths < distance[ends]
            offers = zip(ends[shorter].tolist(), lengths[shorter].tolist(), strict=True)
            return [vertex for vertex, length in offers if offer(vertex, length, turn)]

        arrays = (graph.edge_start, graph.edges, data.weights, distance, queued)
        work = Worklist(launch.space, graph.vertices, graph.source)
        work.work_off(launch, "relax", arrays, data.switch, relax)
        return {"distance": distance}


def _offers(
    data: Data, distance: NDArray[Any], frontier: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """The ends of the edges that leave `frontier`, and how long the ways over them are."""
    places, leaves = data.graph.out_edges(frontier)
    return data.graph.edges[places], distance[frontier][leaves] + data.weights[places]


WORKLOAD = SSSP()
