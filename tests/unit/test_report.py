"""The unified-memory table: nvprof's layout and its way of writing numbers."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from hmmemu import report
from hmmemu.trace import ProcessorStats, Stats, Transfer


def transfer(direction, count, total, low, high, seconds, device="a"):
    source, target = {"HtoD": ("CPU", device), "DtoH": (device, "CPU"), "DtoD": ("b", device)}[direction]
    return Transfer(source, target, device, direction, count, total, low, high, seconds, 0, {"fault": total})


def processor(name, read, write, seconds=1e-6):
    others = [0] * (len(fields(ProcessorStats)) - 6)
    return ProcessorStats(name, read, write, 0, 0, seconds, *others)


def test_layout_is_nvprofs():
    stats = Stats(
        processors=[processor("CPU", 30, 6), processor("a", 10, 2, 3.5e-3)],
        transfers=[
            transfer("HtoD", 171, 8 << 20, 4096, 1044480, 1.126976e-3),
            transfer("DtoH", 24, 4 << 20, 4096, 1044480, 370.336e-6),
            transfer("DtoD", 0, 0, 0, 0, 0.0),
        ],
    )
    assert report.unified_memory_table(stats).split("\n") == [
        "Unified Memory profiling result:",
        'Device "a"',
        "   Count  Avg Size  Min Size  Max Size  Total Size  Total Time  Name",
        "     171  47.906KB  4.0000KB  0.9961MB  8.000000MB  1.126976ms  Host To Device",
        "      24  170.67KB  4.0000KB  0.9961MB  4.000000MB  370.3360us  Device To Host",
        "      12         -         -         -           -  3.500000ms  Gpu page fault groups",
        "Total CPU Page faults: 36",
    ]


def test_each_device_has_its_own_section():
    stats = Stats(
        processors=[processor("CPU", 0, 0), processor("a", 1, 0), processor("b", 0, 0), processor("c", 0, 1)],
        transfers=[
            transfer("HtoD", 1, 4096, 4096, 4096, 1e-6),
            transfer("DtoD", 2, 8192, 4096, 4096, 1e-6, device="c"),
        ],
    )
    lines = report.unified_memory_table(stats).split("\n")
    assert [line for line in lines if line.startswith("Device")] == ['Device "a"', 'Device "c"']
    assert lines[3].endswith("Host To Device") and lines[7].endswith("Device To Device")


def test_nothing_happened():
    stats = Stats(processors=[processor("CPU", 0, 0), processor("a", 0, 0)], transfers=[])
    assert report.unified_memory_table(stats).split("\n") == [
        "Unified Memory profiling result:",
        "Total CPU Page faults: 0",
    ]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "0.9766KB"),
        (4096, "4.0000KB"),
        (64 << 10, "64.000KB"),
        (999 << 10, "999.00KB"),
        (1 << 20, "1.0000MB"),
        (1 << 30, "1.0000GB"),
        (1 << 40, "1.0000TB"),
        (5000 << 40, "5000.0TB"),
    ],
)
def test_sizes(count, words):
    assert report.size(count) == words


def test_total_size_has_more_digits():
    assert report.size(64 << 10, 8) == "64.00000KB"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0.0000ns"), (2e-6, "2.0000us"), (12.345e-6, "12.345us"), (0.25, "250.00ms"), (75.0, "75.000s")],
)
def test_durations(seconds, words):
    assert report.duration(seconds) == words


def test_a_number_that_rounds_up_keeps_its_width():
    assert report.duration(9.99999e-6) == "10.000us"


def test_print_of_real_statistics(hmm_space):
    x = hmm_space.full(5000, 1, np.int32)
    hmm_space.prefetch(x, hmm_space.devices[0])
    assert x.sum() == 5000
    stats = hmm_space.stats()
    lines = str(stats).split("\n")
    assert lines == report.unified_memory_table(stats).split("\n")
    assert any(line.endswith("Host To Device") for line in lines)
    assert any(line.endswith("Device To Host") for line in lines)
    assert lines[-1].startswith("Total CPU Page faults: ") and int(lines[-1].split(": ")[1]) > 0
