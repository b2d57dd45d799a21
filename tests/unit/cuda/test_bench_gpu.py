"""`bench gpu` in small, on the stand-in: every row is there, every way is checked, and without a GPU it says so.

Speeds mean nothing here.
"""

from __future__ import annotations

import os
import subprocess
import sys

import fakecuda
import fakecupy
import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.bench import BENCHES, gpu, gpu_pages, gpu_ways, takes_size
from hmmemu.bench.result import Result

SIZE = 2 << 20
PAGES = SIZE // 4096


@pytest.fixture
def cupy(monkeypatch):
    module = fakecupy.make(fakecuda.library())
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.fixture
def space(gpu, cupy):
    with gpu("delay_us=1") as made:
        yield made


def test_all_of_it(space, cupy, monkeypatch):
    """The stand-in is named by the environment, as a GPU would be found."""
    monkeypatch.setenv("HMMEMU_DEVICE", "cuda:0")
    result = BENCHES["gpu"].run(True, SIZE)
    names = [row.name for row in result.rows]
    k = gpu.counts(PAGES)
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
        row = moved[f"pages moved to the device, {count} changed"]
        assert row.ours >= count and row.peer >= count  # and those that come along
    assert "Fake GPU" in result.machine["gpu"] and "Fake GPU" in result.notes[-1]
    assert Result.from_dict(result.to_dict()) == result


def test_a_wrong_sum_is_an_error(space, cupy):
    with gpu_ways.all_ways(cupy, space, SIZE) as ways:
        assert ways[0].name == "hmmemu" and len(ways) == 4
        for way in ways:
            measured = gpu._Measured(way)
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
