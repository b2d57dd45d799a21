"""Launches of the device process: order, sharing of blocks, limits, markers."""

from __future__ import annotations

import re
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from device_rig import BASE, LIMIT, Rig

from hmmemu.errors import KernelTimeout, RangeError


def test_launch_runs_every_block_once(rig: Rig) -> None:
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 1000), (7, 5, 3), (4, 2, 1))
    assert rig.words(7 * 5 * 3 + 1) == (*range(1000, 1000 + 7 * 5 * 3), 0)


def test_tables_of_the_module(rig: Rig) -> None:
    store = next(kernel for kernel in rig.tables["kernels"] if kernel["name"] == "store")
    assert (store["mode"], store["static_shared"], store["max_threads"], store["param_bytes"]) == (
        "loop",
        1024,
        256,
        24,
    )
    assert [p["name"] for p in store["params"]] == ["out", "workers", "value"]
    assert store["params"][1] == {
        "name": "workers", "type": 'unsigned "int"*', "offset": 8, "size": 8, "kind": 1,
        "is_signed": False, "pointee_const": True, "pointee_size": 4,
    }  # fmt: skip


def test_launches_keep_their_order(rig: Rig) -> None:
    state = 0
    for value in range(3000):  # many times the queue's length
        last = rig.launch("chain", struct.pack("<QQ", BASE, value))
        state = (state * 3 + value) % 2**64
    assert rig.process.wait(last, LIMIT) == "done"
    assert struct.unpack_from("<Q", rig.memory) == (state,)
    assert rig.process.completed_ticket == rig.process.last_ticket == last


def test_several_threads_launch_and_wait(rig: Rig) -> None:
    def work(index: int) -> None:
        for _ in range(300):
            rig.run("chain", struct.pack("<QQ", BASE + 4096 * index, 1))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    expected = 0
    for _ in range(300):
        expected = (expected * 3 + 1) % 2**64
    assert [struct.unpack_from("<Q", rig.memory, 4096 * i)[0] for i in range(4)] == [expected] * 4


def test_workers_share_the_blocks(module: Path) -> None:
    rig = Rig(module, workers=3)  # more than CPUs is allowed
    try:
        seen: set[int] = set()
        end = time.monotonic() + LIMIT
        while len(seen) < 3 and time.monotonic() < end:
            rig.run("busy", struct.pack("<QQ", BASE, 200_000), 60)
            seen.update(rig.words(60))
        assert seen == {1, 2, 3}
    finally:
        rig.close()


def test_blocks_that_wait_for_each_other_all_run(module: Path) -> None:
    rig = Rig(module, workers=2)
    try:
        for turn in range(50):
            rig.run("empty", grid=2)
            rig.run("meet", struct.pack("<QI4x", BASE + 64 * turn, 2), 2)
    finally:
        rig.close()


def test_big_and_small_launches_by_turns(rig: Rig) -> None:
    for turn in range(300):
        blocks = (1, 2, 17, 999)[turn % 4]
        rig.run("store", struct.pack("<QQI4x", BASE, 0, turn), blocks)
        assert rig.words(blocks) == tuple(range(turn, turn + blocks))


def test_full_queue_waits_with_a_limit(rig: Rig) -> None:
    rig.launch("forever")
    for _ in range(511):
        rig.launch("empty")
    begin = time.monotonic()
    with pytest.raises(KernelTimeout, match="full"):
        rig.launch("empty", timeout=0.2)
    assert 0.15 < time.monotonic() - begin < 5


def test_wait_has_a_limit(rig: Rig) -> None:
    ticket = rig.launch("forever_yielding")
    begin = time.monotonic()
    assert rig.process.wait(ticket, 0.2) == "timeout"
    assert 0.15 < time.monotonic() - begin < 5
    assert rig.process.wait(ticket, 0) == "timeout"
    assert not rig.process.completed(ticket)
    with pytest.raises(RangeError, match="no launch"):
        rig.process.wait(ticket + 1)


def test_worker_memory(rig: Rig) -> None:
    rig.run("own_memory", struct.pack("<QQI4x", BASE, 0, 0))
    assert rig.words(1) == (0x5B,)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "params", "message"),
    [
        ((1, 1, 1), (257, 1, 1), 0, bytes(24), "store takes at most 256 threads"),
        ((1, 1, 1), (0, 1, 1), 0, bytes(24), "no threads"),
        ((1, 65536, 1), (1, 1, 1), 0, bytes(24), "beyond"),
        ((1, 1, 1), (1, 1, 1), 256 * 1024, bytes(24), "1024 \\+ 262144 bytes of shared memory"),
        ((1, 1, 1), (1, 1, 1), 0, bytes(8), "24 bytes of parameters, not 8"),
    ],
)
def test_impossible_launch_is_refused(
    rig: Rig, grid: Any, block: Any, shared: int, params: bytes, message: str
) -> None:
    ticket = rig.launch("store", params, grid, block, shared=shared)
    assert rig.process.wait(ticket, LIMIT) == "dead"
    report = rig.process.crash()
    assert report is not None and report["kind"] == "launch" and report["ticket"] == ticket
    assert re.search(message, report["message"])


def test_too_many_parameters(rig: Rig) -> None:
    with pytest.raises(RangeError, match="4096"):
        rig.launch("empty", bytes(4097))


def test_unknown_kernel_is_refused(rig: Rig) -> None:
    ticket = rig.process.launch(rig.kernels["empty"] + 60000, (1, 1, 1), (1, 1, 1), 0, b"")
    assert rig.process.wait(ticket, LIMIT) == "dead"
    report = rig.process.crash()
    assert report is not None and "not loaded" in report["message"]


def test_markers_are_time_stamps_in_order(rig: Rig) -> None:
    before = time.monotonic_ns()
    first = rig.process.marker()
    rig.launch("busy", struct.pack("<QQ", BASE, 20_000_000))
    second = rig.process.marker()
    assert rig.process.wait(second, LIMIT) == "done"
    times = rig.process.marker_time(first), rig.process.marker_time(second)
    assert before < times[0] < times[1] - 1_000_000 < time.monotonic_ns()
    for _ in range(600):  # their slots are used again
        last = rig.launch("empty")
    assert rig.process.wait(last, LIMIT) == "done"
    assert (rig.process.marker_time(first), rig.process.marker_time(second)) == times
    for ticket in (0, last, last + 1):
        with pytest.raises(RangeError, match="marker"):
            rig.process.marker_time(ticket)
