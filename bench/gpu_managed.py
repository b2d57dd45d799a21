"""What NVIDIA's driver counts for managed memory, told by nsys, beside what the emulated device counts: pages moved and
faults of the same program. Not yet run on a GPU.

nsys runs this module as a program, and records between cudaProfilerStart and cudaProfilerStop: one iteration of
`bench gpu`. Its report is read as SQLite (docs.nvidia.com/nsight-systems, "SQLite Export Schema Reference").
"""

from __future__ import annotations

import mmap
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import hmmemu as hmm
from hmmemu.bench.gpu_ways import Measured, Ours, chosen_pages, counts, managed_way
from hmmemu.bench.result import Result, Row
from hmmemu.errors import Error, UnsupportedError

PEER = "cudaMallocManaged, as nsys counts it"
_LIMIT = 300.0  # seconds, of each of nsys's two steps
_UVM_HTOD, _UVM_DTOH = 11, 12  # ENUM_CUDA_MEMCPY_OPER


@dataclass(frozen=True)
class Counts:
    """Of one iteration: pages of 4 KiB that moved, and faults."""

    to_device: int
    home: int
    device_faults: int
    cpu_faults: int


_WORDS = {
    "to_device": "pages moved to the device",
    "home": "pages moved home",
    "device_faults": "faults of the device",
    "cpu_faults": "faults of the CPU",
}


def rows(result: Result, gpu: int, size: int) -> None:
    """Adds the emulated device's counts beside the driver's, or a note why there are none of those."""
    nsys = shutil.which("nsys")
    if nsys is None:
        result.notes.append("nsys is not installed: what the driver counts for managed memory is left out")
        return
    pages = size // mmap.PAGESIZE
    try:
        theirs = {count: profile(nsys, gpu, size, count) for count in counts(pages)[::2]}
    except UnsupportedError as error:
        result.notes.append(f"what the driver counts for managed memory is left out: {error}")
        return
    ours = all_counts("emulated", size, list(theirs))
    for count, driver in theirs.items():
        for field, mine, peer in zip(fields(Counts), astuple(ours[count]), astuple(driver), strict=True):
            name = f"emulated, {count} of {pages} changed: {_WORDS[field.name]}"
            result.add(Row(name, mine, "", peer, PEER, more_is_better=False))


def all_counts(device: str, size: int, changed: Sequence[int]) -> dict[int, Counts]:
    """The counts of a device, by the number of pages that the CPU changes, under the policy that is NVIDIA's, too."""
    with hmm.AddressSpace(device=device) as space, space.devices[0]:
        measured = Measured(Ours(space, size))
        measured.warm_up()
        found = {}
        for count in changed:
            space.reset_stats()
            measured.step(chosen_pages(size // mmap.PAGESIZE, count))
            found[count] = _counts_of(space)
    return found


def _counts_of(space: hmm.AddressSpace) -> Counts:
    """What happened in a space of one device since its counters were reset."""
    stats = space.stats()
    moved = {
        way: sum(t.bytes for t in stats.transfers if t.direction == way) // mmap.PAGESIZE
        for way in ("HtoD", "DtoH")
    }
    cpu, device = stats.processors
    return Counts(moved["HtoD"], moved["DtoH"], device.faults, cpu.faults)


def profile(nsys: str, gpu: int, size: int, count: int) -> Counts:
    """The driver's counts. Raises UnsupportedError if nsys cannot tell them."""
    with TemporaryDirectory(prefix="hmmemu-nsys-") as folder:
        report, database = Path(folder, "report.nsys-rep"), Path(folder, "report.sqlite")
        options = (
            "--trace=cuda --sample=none --cpuctxsw=none --cuda-um-cpu-page-faults=true --cuda-um-gpu-page-faults=true "
            "--capture-range=cudaProfilerApi --capture-range-end=stop"
        )
        program = [sys.executable, "-m", "hmmemu.bench.gpu_managed", str(gpu), str(size), str(count)]
        _run([nsys, "profile", *options.split(), f"--output={report}", *program])
        _run([nsys, "export", "--type=sqlite", f"--output={database}", str(report)])
        return read_report(database)


def _run(command: Sequence[str]) -> None:
    what = f"nsys {command[1]}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise UnsupportedError(f"{what} did not end within {_LIMIT:.0f} s") from None
    except OSError as error:
        raise UnsupportedError(f"{what} cannot be run: {error.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "without a word").splitlines()[-1]
        raise UnsupportedError(f"{what} ended with status {done.returncode}: {last}")


def read_report(database: Path) -> Counts:
    """The counts in a report of nsys, as SQLite. Tables of what did not happen are not there.

    Raises:
        UnsupportedError: it is none, or of another make.
    """
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as report:
            tables = {
                name for (name,) in report.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            if not any(name.startswith("CUPTI_ACTIVITY_KIND_") for name in tables):
                raise UnsupportedError("nsys recorded nothing of CUDA")

            def ask(table: str, value: str, where: str = "1") -> int:
                if table not in tables:
                    return 0
                (found,) = report.execute(f"SELECT {value} FROM {table} WHERE {where}").fetchone()
                return int(found or 0)

            def moved(kind: int) -> int:
                return ask("CUPTI_ACTIVITY_KIND_MEMCPY", "sum(bytes)", f"copyKind = {kind}") // mmap.PAGESIZE

            return Counts(
                to_device=moved(_UVM_HTOD),
                home=moved(_UVM_DTOH),
                device_faults=ask("CUDA_UM_GPU_PAGE_FAULT_EVENTS", "sum(numberOfPageFaults)"),
                cpu_faults=ask("CUDA_UM_CPU_PAGE_FAULT_EVENTS", "count(*)"),
            )
    except sqlite3.Error as error:
        raise UnsupportedError(f"the report of nsys cannot be read: {error}") from None


def main(gpu: int, size: int, count: int) -> None:
    """The program that nsys runs: one iteration, recorded, when everything has been moved before."""
    cupy = import_module("cupy")
    with cupy.cuda.Device(gpu):
        measured = Measured(managed_way(cupy, size))
        measured.warm_up()
        cupy.cuda.runtime.profilerStart()
        measured.step(chosen_pages(size // mmap.PAGESIZE, count))
        cupy.cuda.runtime.profilerStop()


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:4]))
    except Error as failed:
        sys.exit(f"hmmemu: error: {failed}")
