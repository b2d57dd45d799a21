"""What a bench found: rows of ours beside a yardstick, the machine, and both as JSON and as a table.

A row's figures are medians. `ratio` is ours over the yardstick's, whichever way is better; `aim` says where the
ratio (or, without a yardstick, our own figure) should lie.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from hmmemu.compiler import find_compiler
from hmmemu.errors import NoCompilerError


@dataclass(frozen=True)
class Row:
    """One comparison.

    `ours` and `peer` are medians in `unit`; `peer` is None where there is no yardstick. `more_is_better` is False
    for times. `aim` bounds the ratio, or `ours` where there is no peer: from below if more is better, else from
    above.
    """

    name: str
    ours: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    aim: float | None = None
    more_is_better: bool = True
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the yardstick's; None without one."""
        return self.ours / self.peer if self.peer else None

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without an aim."""
        if self.aim is None:
            return None
        value = self.ours if self.ratio is None else self.ratio
        return value >= self.aim if self.more_is_better else value <= self.aim

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the ratio and whether the aim is met."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass
class Result:
    """All rows of one bench, and what they were measured on.

    `details` are further figures, plain data that the JSON has and the table leaves out.
    """

    name: str
    question: str
    rows: list[Row] = field(default_factory=list)
    quick: bool = False
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())

    def add(self, row: Row) -> None:
        """Appends a row."""
        self.rows.append(row)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for json.dump."""
        return {
            "name": self.name,
            "question": self.question,
            "quick": self.quick,
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            "details": dict(self.details),
            "machine": dict(self.machine),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """The result that `to_dict` wrote. Raises KeyError for a document of another kind."""
        names = Row.__dataclass_fields__
        rows = [Row(**{key: value for key, value in row.items() if key in names}) for row in data["rows"]]
        return cls(
            data["name"],
            data["question"],
            rows,
            data["quick"],
            list(data["notes"]),
            dict(data.get("details", {})),  # older results have none
            dict(data["machine"]),
        )

    def table(self) -> Table:
        """For a terminal of 80 columns: a section for each yardstick."""
        table = Table(
            title=self.question, caption=self._caption(), title_justify="left", caption_justify="left"
        )
        table.add_column("measured")
        for heading in ("ours", "yardstick", "ratio", "aim"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        section = None
        for row in self.rows:
            if row.peer_name != section:
                section = row.peer_name
                table.add_section()
                table.add_row(f"[italic]beside {section}[/]" if section else "[italic]alone[/]")
            table.add_row(
                row.name + (f" ({row.note})" if row.note else ""),
                f"{row.ours:.4g}",
                "" if row.peer is None else f"{row.peer:.4g}",
                "" if row.ratio is None else f"{row.ratio:.3g}",
                _aim(row),
                row.unit,
            )
        return table

    def _caption(self) -> str:
        m = self.machine
        where = f"{m.get('cpu')}, {m.get('cpus')} CPUs, Linux {m.get('kernel')}, {m.get('compiler')}"
        return "\n".join([f"{where}; load {m.get('load')}", *self.notes])


def _aim(row: Row) -> str:
    if row.aim is None:
        return ""
    sign = "≥" if row.more_is_better else "≤"
    return f"{sign}{row.aim:g} " + ("[green]met[/]" if row.met else "[red]missed[/]")


def median(values: Iterable[float]) -> float:
    """The median; of an even number of values, the mean of the middle two."""
    return statistics.median(values)


def describe_machine() -> dict[str, Any]:
    """What has a say in the figures: processor, usable CPUs, memory, kernel, compiler, load, versions, date."""
    from hmmemu import __version__

    try:
        compiler = find_compiler().version
    except NoCompilerError:
        compiler = "no C++ compiler"
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "compiler": compiler,
        "python": platform.python_version(),
        "hmmemu": __version__,
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
