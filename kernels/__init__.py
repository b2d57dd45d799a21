"""The workloads that come with hmmemu: CUDA C++ kernels, one access pattern each, with a NumPy reference.

`WORKLOADS` maps a name to its workload. A workload's module is imported when it is first asked for, so that
listing the names costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from hmmemu.kernels.workload import Workload

__all__ = ["SIZES", "WORKLOADS"]

SIZES = ("tiny", "small", "medium", "large")

_NAMES = (
    "vector_add",
    "reduction",
    "matmul",
    "histogram",
    "sobel",
    "spmv",
    "bfs",
    "kmeans",
    "jacobi",
    "tree_walk",
    "shared_histogram",
    "task_queue",
    "compaction",
    "padding",
    "transposition",
    "bfs_switch",
    "sssp",
    "ransac",
)


class _Registry(Mapping[str, "Workload"]):
    """The workloads by name, in the order in which they are best read."""

    def __getitem__(self, name: str) -> Workload:
        if name not in _NAMES:
            raise KeyError(name)
        return cast("Workload", import_module(f"hmmemu.kernels.{name}").WORKLOAD)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


WORKLOADS: Mapping[str, Workload] = _Registry()
