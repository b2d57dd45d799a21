"""`bench gpu` in small, on the stand-in: every row is there, every way is checked, and without a GPU it says so.

Speeds mean nothing here.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.bench import BENCHES, gpu, gpu_managed, gpu_pages, gpu_ways, takes_size
from hmmemu.bench.result import Result

SIZE = 2 << 20
PAGES = SIZE // 4096


@pytest.fixture
def space(gpu, cupy):
    with gpu("delay_us=1") as made:
        yield made


def test_all_of_it(space, cupy, monkeypatch):
    """The stand-in is named by the environment, as a GPU would be found."""
    monkeypatch.setenv("HMMEMU_DEVICE", "cuda:0")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **how: None if name == "nsys" else which(name, **how))
    result = BENCHES["gpu"].run(True, SIZE)
    names = [row.name for row in result.rows]
    k = gpu_ways.counts(PAGES)
    assert k[0] == 1 and k[-1] == PAGES and PAGES // 4 in k
    assert names[: len(k)] == [f"{count} of {PAGES} pages changed" for count in k]
    by_peer = {}
    for row in result.rows:
        by_peer.setdefault(row.peer_name, []).append(row)
    for peer in ("CuPy, all copied each time", "cudaMallocManaged", "pinned memory, over the link"):
        assert [row.aim for row in by_peer[peer]] == [1.0 if count <= PAGES // 4 else None for count in k]
    assert all(row.aim == 1.1 and row.ratio and not row.more_is_better for row in by_peer[gpu.BEST])
    scatter, gather = by_peer[gpu_pages.PEER]
    assert (
        scatter.name.startswith("scatter, 256 pages of 512") and gather.aim == 0.8 and gather.more_is_better
    )
    assert by_peer[gpu.CUPY_LAUNCH][0].unit == "µs" and by_peer[""][0].aim == 10
    moved = {row.name: row for row in by_peer[gpu.EMULATED]}
    for count in k:
        row = moved[f"pages moved to the device, {count} of {PAGES} changed"]
        assert row.ours >= count and row.peer >= count  # and those that come along
    assert "Fake GPU" in result.machine["gpu"] and "Fake GPU" in result.notes[-1]
    assert "nsys is not installed" in result.notes[0]
    assert Result.from_dict(result.to_dict()) == result


def test_a_wrong_sum_is_an_error(space, cupy):
    with gpu_ways.all_ways(cupy, space, SIZE) as ways:
        assert ways[0].name == "hmmemu" and len(ways) == 4
        for way in ways:
            measured = gpu_ways.Measured(way)
            assert 0 < measured.step(np.arange(PAGES)) < 60
            way.words[5 * gpu.WORDS + 7] = 1  # behind its back
            with pytest.raises(hmm.Error, match=f"{way.name}: the kernel did not see what the CPU wrote"):
                measured.step(np.array([1, 3]))


def test_a_page_in_the_wrong_place_is_an_error(cupy, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA", "delay_us=1")
    mover = gpu_pages.ScatteredPages(cupy, SIZE)
    assert len(mover.rows(1)) == 2
    mover._table.set(np.arange(mover.chosen.size, dtype=np.uint32)[::-1].copy())
    with pytest.raises(hmm.Error, match="to the wrong place"):
        mover.rows(1)


NSYS = """#!{python}
import sqlite3, sys
command, *options = sys.argv[1:]
if command == "profile":
    assert "--capture-range=cudaProfilerApi" in options and options[-5:-3] == ["-m", "hmmemu.bench.gpu_managed"]
    {profile}
    open(next(o for o in options if o.startswith("--output=")).partition("=")[2], "w").write(options[-1])
else:
    changed = int(open(options[-1]).read())
    report = sqlite3.connect(next(o for o in options if o.startswith("--output=")).partition("=")[2])
    report.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (copyKind INT, bytes INT)")
    report.execute("CREATE TABLE CUDA_UM_GPU_PAGE_FAULT_EVENTS (numberOfPageFaults INT)")
    for kind, size in ((11, 65536 * changed), (11, 4096), (12, 8192), (1, 1 << 20)):
        report.execute("INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?, ?)", (kind, size))
    report.execute("INSERT INTO CUDA_UM_GPU_PAGE_FAULT_EVENTS VALUES (3), (4)")
    report.commit()
"""


@pytest.fixture
def nsys(tmp_path, monkeypatch):
    """nsys("code of its step `profile`"): a program of that name, whose report is made up."""

    def install(profile):
        program = tmp_path / "nsys"
        program.write_text(NSYS.format(python=sys.executable, profile=profile))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_what_nsys_counts(nsys):
    nsys("pass")
    result = Result("gpu", gpu.QUESTION)
    gpu_managed.rows(result, 0, SIZE)
    assert not result.notes and {row.peer_name for row in result.rows} == {gpu_managed.PEER}
    first = {row.name: row for row in result.rows[:4]}
    begin = f"emulated, 1 of {PAGES} changed: "
    assert [row.peer for row in first.values()] == [17, 2, 7, 0]
    assert first[begin + "pages moved to the device"].ours >= 1
    assert first[begin + "faults of the device"].ours >= 1 and first[begin + "faults of the CPU"].ours >= 1


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("sys.exit('no permission')", "nsys profile ended with status 1: no permission"),
        ("sys.exit(0)", "nsys export ended with status 1: FileNotFoundError"),
    ],
)
def test_nsys_that_cannot_tell(nsys, profile, words):
    nsys(profile)
    result = Result("gpu", gpu.QUESTION)
    gpu_managed.rows(result, 0, SIZE)
    assert not result.rows and words in result.notes[0]


def test_a_report_of_another_make(tmp_path):
    for name, content, words in (
        ("text.sqlite", b"no database, but as long as one" * 40, "cannot be read: file is not a database"),
        ("empty.sqlite", b"", "recorded nothing of CUDA"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(hmm.UnsupportedError, match=words):
            gpu_managed.read_report(tmp_path / name)
    with sqlite3.connect(tmp_path / "other.sqlite") as report:
        report.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (copyKind INT)")
    report.close()
    with pytest.raises(hmm.UnsupportedError, match="no such column: bytes"):
        gpu_managed.read_report(tmp_path / "other.sqlite")


def test_the_program_that_nsys_runs(cupy, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA", "delay_us=1")
    marks = []
    cupy.cuda.runtime.profilerStart = lambda: marks.append("start")
    cupy.cuda.runtime.profilerStop = lambda: marks.append("stop")
    gpu_managed.main(0, SIZE, 7)
    assert marks == ["start", "stop"]


def test_sizes(cupy):
    assert takes_size("gpu")
    for size, free, words in (
        (0, 1 << 40, "multiple of 2 MiB"),
        (4096, 1 << 40, "multiple of 2 MiB"),
        (8 << 20, 16 << 20, "4 times 8 MiB of memory are needed on the GPU, and 16 MiB are free: .*--bytes"),
        (1 << 50, 1 << 60, "6 times .* are needed here"),
    ):
        with pytest.raises(hmm.ArgumentError, match=words):
            gpu.check_size(size, free)
    gpu.check_size(8 << 20, 32 << 20)


def test_without_a_gpu_it_says_so_in_one_line():
    environment = {**os.environ, "HMMEMU_LIBCUDA": "/nowhere/libcuda.so.1", "HMMEMU_DEVICE": "emulated"}
    done = subprocess.run(
        [sys.executable, "-m", "hmmemu.cli", "bench", "gpu", "--quick"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("hmmemu: error: /nowhere/libcuda.so.1 cannot be loaded: ")
