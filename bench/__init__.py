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

__all__ = ["BENCHES", "Bench", "takes_size"]

_NAMES = (
    "kernels",
    "launch",
    "faults",
    "migrate",
    "waitqueue",
    "overhead",
    "dirty",
    "merge",
    "atomics",
    "gpu",
)
_TAKE_SIZE = ("dirty", "gpu")


class Bench(Protocol):
    """What `hmmemu bench NAME` runs."""

    def run(self, quick: bool = False, *size: int) -> Result:
        """Measures; `quick` takes seconds instead of minutes; `size` in bytes, where the bench takes one."""


def takes_size(name: str) -> bool:
    """Whether the bench measures an array whose size can be chosen, in bytes."""
    return name in _TAKE_SIZE


class _Registry(Mapping[str, Bench]):
    """The benches by name."""

    def __getitem__(self, name: str) -> Bench:
        if name not in _NAMES:
            raise KeyError(name)
        return cast("Bench", import_module(f"hmmemu.bench.{name}"))

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


BENCHES: Mapping[str, Bench] = _Registry()
