"""What happened to the pages: `Stats`, a snapshot of the driver's counters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hmmemu.arena import PAGE

CAUSES = ("fault", "prefetch", "launch", "home", "eviction")  # order of native/trace/counters.h


@dataclass(frozen=True)
class ProcessorStats:
    """Counts of one processor: the CPU or a device.

    Faults are messages that the processor waited for; pages are 4 KiB; `fault_seconds` is the driver's time.
    `invalidated_pages` counts copies that this processor lost because another one wrote, `evicted_pages` those that it
    gave up for want of memory. `remote_pages` counts pages of which a device mapped the CPU's frame, for atomics over
    the link, `exclusive_pages` how often the CPU lost its mapping of such a page to it (fallback "exclusive").
    `throttles` counts faults that were held up because their page thrashed, `pinned_pages` pages that were mapped in
    the CPU's memory for the same reason (`Policy.thrashing`).
    """

    name: str
    read_faults: int
    write_faults: int
    spurious_faults: int
    refused_faults: int
    fault_seconds: float
    first_touch_pages: int
    upgraded_pages: int
    remote_pages: int
    exclusive_pages: int
    throttles: int
    pinned_pages: int
    invalidated_pages: int
    evicted_pages: int

    @property
    def faults(self) -> int:
        """Read and write faults together."""
        return self.read_faults + self.write_faults


@dataclass(frozen=True)
class Transfer:
    """Pages copied from one processor to another.

    `count` moves of `bytes` in all took `seconds`; `duplicated_bytes` of them left a copy behind, the rest migrated.
    `causes` says why, in bytes: "fault", "prefetch", "launch" or "home" (close, fork, unregister) or
    "eviction".
    """

    source: str
    target: str
    device: str
    direction: str
    count: int
    bytes: int
    min_bytes: int
    max_bytes: int
    seconds: float
    duplicated_bytes: int
    causes: dict[str, int]


@dataclass(frozen=True)
class Stats:
    """Counters since the space was opened or `reset_stats` was called. `print(stats)` shows nvprof's table."""

    processors: list[ProcessorStats]
    transfers: list[Transfer] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        from hmmemu.report import unified_memory_table

        return unified_memory_table(self)


def read_stats(counters: dict[str, Any], names: list[str]) -> Stats:
    """Turns the native counters into `Stats`; `names` are the processors' names, the CPU's first."""
    processors = []
    for name, counts in zip(names, counters["processors"], strict=True):
        seconds = counts.pop("fault_ns") * 1e-9
        processors.append(ProcessorStats(name=name, fault_seconds=seconds, **counts))
    return Stats(processors, [_transfer(item, names) for item in counters["transfers"]])


def _transfer(item: dict[str, Any], names: list[str]) -> Transfer:
    source, target = item["source"], item["target"]
    directions = {(True, False): "HtoD", (False, True): "DtoH"}
    return Transfer(
        source=names[source],
        target=names[target],
        device=names[target or source],
        direction=directions.get((source == 0, target == 0), "DtoD"),
        count=item["moves"],
        bytes=item["pages"] * PAGE,
        min_bytes=item["fewest"] * PAGE,
        max_bytes=item["most"] * PAGE,
        seconds=item["ns"] * 1e-9,
        duplicated_bytes=item["duplicated_pages"] * PAGE,
        causes={cause: n * PAGE for cause, n in zip(CAUSES, item["by_cause"], strict=True) if n},
    )
