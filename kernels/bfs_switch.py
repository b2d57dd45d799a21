"""Breadth-first search that switches between CPU and device: small frontiers are the CPU's, large ones the device's.

The idea is that of the workload BFS in the CHAI benchmarks (Gomez-Luna et al., ISPASS 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.kernels.graphs import Graph, breadth_first_levels, random_graph
from hmmemu.kernels.worklist import Worklist
from hmmemu.kernels.workload import Arrays, Launcher, Workload


@dataclass(frozen=True)
class Data:
    """A graph, and from how many vertices on a frontier is the device's."""

    graph: Graph
    switch: int


class BFSSwitch(Workload):
    """Distance of every vertex from the source in edges, -1 where there is no path.

    CPU and devices claim vertices in one array and append to one queue, by atomics of the whole system.
    """

    name = "bfs_switch"
    pattern = "CPU (small frontiers) and device (large ones) in turn mark one array and append to one queue"
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"vertices": 200, "degree": 3, "switch": 16},
        "small": {"vertices": 50_000, "degree": 8, "switch": 100},
        "medium": {"vertices": 1_000_000, "degree": 8, "switch": 1000},
        "large": {"vertices": 4_000_000, "degree": 16, "switch": 1000},
    }
    kernels = ("expand",)

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Data:
        """A uniform random graph."""
        return Data(random_graph(space, size, rng), size["switch"])

    def reference(self, data: Data) -> Arrays:
        """Level by level."""
        return {"level": breadth_first_levels(data.graph)}

    def compute(self, launch: Launcher, data: Data) -> Arrays:
        """A level a turn."""
        graph = data.graph
        level = launch.space.full(graph.vertices, -1, np.int32)
        level[graph.source] = 0

        def expand(frontier: NDArray[Any], depth: int) -> list[int]:
            """NumPy finds the neighbours that seem unseen, an atomic operation claims each."""
            neighbours = graph.edges[graph.out_edges(frontier)[0]]
            unseen = neighbours[level[neighbours] < 0].tolist()
            return [vertex for vertex in unseen if hmm.atomic_cas(level, vertex, -1, depth) == -1]

        work = Worklist(launch.space, graph.vertices, graph.source)
        work.work_off(launch, "expand", (graph.edge_start, graph.edges, level), data.switch, expand)
        return {"level": level}


WORKLOAD = BFSSwitch()
