"""Measurements, one question a module; each answers it as ratios within one run.

`BENCHES` maps a name to a module with `run(quick: bool) -> Result`; some take a size as well (`takes_size`). A module
is imported when it is first asked for, so that listing the names costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from hmmemu.bench.result import Result

__all__ = ["BENCHES", "Bench", "question", "takes_size"]

_QUESTIONS = {
    "kernels": "how fast kernels run beside the same loops in C++ with OpenMP",
    "launch": "how long an empty kernel takes from call to end",
    "faults": "what a page fault costs beside the bare system calls",
    "migrate": "how fast memory moves each way beside memcpy",
    "waitqueue": "what a wake-up costs with a wait list for each page",
    "overhead": "what a program pays that uses none of hmmemu; a write to a page under each tracker",
    "dirty": "how long a device waits for what the CPU wrote",
    "merge": "what merging equal pages costs and saves",
    "atomics": "atomic operations per second, by operation, link and fallback",
    "gpu": "on a GPU: beside full copies, managed and pinned memory",
}
_TAKE_SIZE = ("dirty", "gpu")


class Bench(Protocol):
    """What `hmmemu bench NAME` runs."""

    def run(self, quick: bool = False, *size: int) -> Result:
        """Measures; `quick` takes seconds instead of minutes; `size` in bytes, where the bench takes one."""


def question(name: str) -> str:
    """What the bench measures, in a few words."""
    return _QUESTIONS[name]


def takes_size(name: str) -> bool:
    """Whether the bench measures an array whose size can be chosen, in bytes."""
    return name in _TAKE_SIZE


class _Registry(Mapping[str, Bench]):
    """The benches by name."""

    def __getitem__(self, name: str) -> Bench:
        if name not in _QUESTIONS:
            raise KeyError(name)
        return cast("Bench", import_module(f"hmmemu.bench.{name}"))

    def __iter__(self) -> Iterator[str]:
        return iter(_QUESTIONS)

    def __len__(self) -> int:
        return len(_QUESTIONS)


BENCHES: Mapping[str, Bench] = _Registry()
