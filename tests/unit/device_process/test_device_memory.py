"""The device's memory map, shootdown, address layouts, modules and their variables."""

from __future__ import annotations

import itertools
import json
import os
import signal
import struct
import threading
import time
from pathlib import Path

import pytest
from device_rig import BASE, GLOBALS, LIMIT, SIZE, Rig, eventually, thread_states
from waiting import is_gone

from hmmemu._native import LAYOUTS
from hmmemu.errors import DeviceError, RangeError


def test_faults_carry_the_worker(rig: Rig) -> None:
    assert rig.pager is not None
    rig.pager.faults.clear()
    rig.run("store", struct.pack("<QQI4x", BASE + 8192, 0, 1), 1)
    workers = dict(rig.process.workers)
    assert [(address & ~4095, thread in workers) for address, thread in rig.pager.faults] == [
        (BASE + 8192, True)
    ]
    for thread, cpu in rig.process.workers:
        assert os.sched_getaffinity(thread) == {cpu}


def test_zap_drops_entries_and_keeps_frames(rig: Rig) -> None:
    assert rig.pager is not None
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 3), 10)
    before = rig.pager.recorded()
    rig.run("chain", struct.pack("<QQ", BASE + 64, 1))
    assert rig.pager.recorded() == before  # mapped: no fault
    rig.invalidate(BASE, SIZE)
    assert rig.words(10) == tuple(range(3, 13))
    rig.run("chain", struct.pack("<QQ", BASE + 64, 1))
    again = rig.pager.recorded()[len(before) :]  # a read and then a write, where the tracker tells them apart
    assert {page & ~4095 for page, _ in again} == {BASE} and len(again) in (1, 2)
    assert rig.words(10) == tuple(range(3, 13))


def test_zap_while_kernels_run_from_several_threads(rig: Rig) -> None:
    stop = threading.Event()
    results: list[bool] = []

    def zapper(index: int) -> None:
        while not stop.is_set():
            rig.invalidate(BASE + index * 4096, 4096)
            results.append(True)

    threads = [threading.Thread(target=zapper, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    state = 0
    for _ in range(200):
        rig.run("chain", struct.pack("<QQ", BASE, 1))
        state = (state * 3 + 1) % 2**64
    stop.set()
    for thread in threads:
        thread.join(LIMIT)
    assert struct.unpack_from("<Q", rig.memory) == (state,)
    assert len(results) > 10 and all(results)


def test_zap_of_a_dead_device(rig: Rig) -> None:
    os.kill(rig.process.pid, signal.SIGKILL)
    assert eventually(lambda: is_gone(rig.process.pid))
    assert rig.process.zap(BASE, 4096)  # it has no page table entries any more
    rig.process.restart()
    rig.prepare()
    assert rig.process.zap(BASE, 4096)


def test_zap_of_a_stopped_device_gives_up(rig: Rig) -> None:
    os.kill(rig.process.pid, signal.SIGSTOP)
    assert eventually(lambda: all(state == "T" for state in thread_states(rig.process.pid)))
    begin = time.monotonic()
    assert not rig.process.zap(BASE, 4096)
    assert 3 < time.monotonic() - begin < LIMIT
    begin = time.monotonic()
    assert not rig.process.zap(BASE, 4096)  # at once
    assert time.monotonic() - begin < 3
    rig.process.kill()
    assert rig.process.zap(BASE, 4096)


def test_map_of_an_address_in_use(rig: Rig) -> None:
    with pytest.raises(RangeError, match="in use in the device process"):
        rig.process.map(BASE, 4096)
    rig.process.unmap(BASE, SIZE)
    rig.process.map(BASE, SIZE)
    rig.run("store", struct.pack("<QQI4x", BASE, 0, 1), 10)


@pytest.mark.parametrize(
    ("address", "length"), [(1, 4096), (BASE, 100), (BASE, 0), (0, 4096), (1 << 47, 4096)]
)
def test_map_of_nonsense(rig: Rig, address: int, length: int) -> None:
    with pytest.raises(RangeError, match="whole pages"):
        rig.process.map(address, length)


def lowest_library(pid: int) -> int:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return min(int(line.split("-")[0], 16) for line in lines if "libc.so" in line or "libc-" in line)


def test_layouts_lie_apart(rig: Rig) -> None:
    places = []
    for layout in range(LAYOUTS):
        rig.process.restart(layout)
        assert rig.process.layout == layout
        places.append(lowest_library(rig.process.pid))
    ordered = sorted(places)
    assert min(b - a for a, b in itertools.pairwise(ordered)) > 1 << 40
    assert ordered[-1] < 0x7000_0000_0000  # away from where this process has its libraries


def test_library_addresses_collide_in_one_layout_only(rig: Rig) -> None:
    taken = lowest_library(rig.process.pid)
    with pytest.raises(RangeError, match="in use"):
        rig.process.map(taken, 4096)
    rig.process.restart(rig.process.layout + 1)
    rig.process.map(taken, 4096)


def test_stack_limit_is_set_back(rig: Rig) -> None:
    def limits(pid: int | str) -> str:
        return next(
            x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith("Max stack")
        )

    assert limits(rig.process.pid) == limits("self")


def test_globals(rig: Rig) -> None:
    variables = {entry["name"]: entry for entry in rig.tables["globals"]}
    assert variables["counter"]["address"] == GLOBALS and variables["table"]["address"] == GLOBALS + 256
    assert rig.tables["bytes_used"] == 256 + 4000
    assert struct.unpack_from("<Q", rig.globals) == (41,)
    assert struct.unpack_from("<4I", rig.globals, 256) == (7, 8, 9, 0)
    rig.run("count")
    assert struct.unpack_from("<Q", rig.globals) == (49,)
    rig.process.restart()
    rig.prepare(initialise=False)  # the variables keep their addresses and values
    rig.run("count")
    assert struct.unpack_from("<Q", rig.globals) == (57,)


def test_globals_that_do_not_fit(rig: Rig, module: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.so"
    copy.write_bytes(module.read_bytes())
    assert rig.process.load(str(copy), 0, 0, True) == 256 + 4000
    assert rig.process.load(str(copy), GLOBALS + 8192, 4000, True) == 256 + 4000
    tables = rig.process.load(str(copy), GLOBALS + 8192, 256 + 4000, True)
    assert isinstance(tables, str)
    assert json.loads(tables)["globals"][0]["address"] == GLOBALS + 8192


def test_module_loaded_twice_and_unloaded(rig: Rig) -> None:
    tables = rig.process.load(str(rig.module), GLOBALS, SIZE, True)
    assert isinstance(tables, str)
    again = json.loads(tables)
    assert again == rig.tables
    rig.process.unload(again["module"])
    rig.run("empty")
    rig.process.unload(again["module"])
    with pytest.raises(DeviceError, match="not loaded"):
        rig.process.unload(again["module"])
    assert str(rig.module) not in Path(f"/proc/{rig.process.pid}/maps").read_text()
    ticket = rig.launch("empty")
    assert rig.process.wait(ticket, LIMIT) == "dead"


def test_file_that_is_no_module(rig: Rig, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.so"
    wrong.write_text("this is not a shared object")
    for path, message in (
        (wrong, "wrong.so"),
        (tmp_path / "none.so", "none.so"),
        ("libm.so.6", "no hmmemu_module"),
    ):
        with pytest.raises(DeviceError, match=message):
            rig.process.load(str(path), 0, 0, True)
    rig.run("empty")


def test_to_forget_a_part_of_an_object_takes_no_descriptor(rig: Rig) -> None:
    def descriptors() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), rig.process.pid)]

    memory = os.memfd_create("object")
    os.truncate(memory, SIZE)
    before = descriptors()
    assert rig.process.tell_frames(memory, BASE, SIZE, 0)
    with_object = descriptors()
    for address in range(BASE + 4096, BASE + SIZE, 8192):
        rig.process.forget_frames(address, 4096)
    assert descriptors() == with_object == [n + 1 for n in before]
    rig.process.forget_frames(BASE, SIZE)
    assert descriptors() == before
    os.close(memory)
