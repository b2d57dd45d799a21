"""One page, many owners: mappings of the same file or shared memory, registered at several addresses, are one memory.

What is written through one of them, by the CPU, a device or a system call, is read through every other one.
"""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from forking import in_child
from several_views import INTS, KINDS, PAGES, Views, numbers, read, write

import hmmemu as hmm


@pytest.fixture(params=KINDS[:3])
def views(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Views]:
    made = Views(request.param, tmp_path / "data")
    yield made
    made.close()


@pytest.fixture
def pair(space: hmm.AddressSpace, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Two registered views of the same memory, which holds 0, 1, 2, ..."""
    a, b = views.another(), views.another()
    assert a.ctypes.data != b.ctypes.data
    a[:] = numbers()
    return space.register(a), space.register(b)


# ------------------------------------------------------------------------------------------- coherence


@pytest.mark.parametrize("reader", ["cpu", "device"])
@pytest.mark.parametrize("writer", ["cpu", "device"])
def test_written_through_one_read_through_the_other(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray], writer: str, reader: str
) -> None:
    a, b = pair
    want = numbers()
    for round_ in range(3):
        for source, target in ((a, b), (b, a)):
            part = slice(round_ * 7 * INTS + 5, 520 * INTS + 9)
            want[part] = value = 1000 * round_ + (source is a)
            write(space, source[part], writer, value)
            np.testing.assert_array_equal(read(space, target, reader), want)
            np.testing.assert_array_equal(read(space, source, reader), want)


def test_kernels_use_both(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray], kernels: hmm.RawModule
) -> None:
    a, b = pair
    add, want = kernels.get_function("add"), numbers()
    with space:
        for value in range(1, 4):
            add(8, 64, (a, a.size, value))
            add(8, 64, (b, b.size, 10))
            space.synchronize()
            a[::INTS] += 1
            b[1::INTS] += 2
            want += value + 10
            want[::INTS] += 1
            want[1::INTS] += 2
        np.testing.assert_array_equal(a, want)
        np.testing.assert_array_equal(b, want)


def test_one_writer_at_a_time(space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The rule of one page, one level up: one owner that writes, or many that read."""
    a, b = pair
    space.prefetch(a, space.devices[0])
    assert set(space.residency(a)) == {"-X"} and set(space.residency(b)) == {"--"}
    space.devices[0].read(b)
    assert set(space.residency(a)) == {"SS"} and set(space.residency(b)) == {"SS"}
    space.prefetch(b, hmm.cpu)
    assert set(space.residency(a)) == {"--"} and set(space.residency(b)) == {"X-"}


def test_two_devices(two_devices: hmm.AddressSpace, views: Views) -> None:
    space = two_devices
    a, b = (space.register(views.another()) for _ in range(2))
    first, second = space.devices
    first.write(a[:INTS], 1)
    second.write(b[INTS // 2 : 2 * INTS], 2)
    first.write(b[INTS : 2 * INTS], 3)
    want = np.r_[np.ones(INTS // 2), np.full(INTS // 2, 2), np.full(INTS, 3)]
    for device in space.devices:
        for x in (a, b):
            np.testing.assert_array_equal(device.read(x[: 2 * INTS]), want)
    np.testing.assert_array_equal(a[: 2 * INTS], want)


def test_the_record(space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray], views: Views) -> None:
    a, b = pair
    for page in (0, 511, 512, PAGES - 1):
        records = [space.record(x, page) for x in pair]
        assert records[0] == records[1]
        assert [o.address for o in records[0]] == sorted(x.ctypes.data + page * 4096 for x in pair)
        assert {o.offset for o in records[0]} == {page * 4096}
        assert len({o.mapping for o in records[0]}) == 2 and all(o.private for o in records[0])
    c = space.register(views.another())
    assert len(space.record(a, 3)) == 3
    space.unregister(b)
    assert [o.address for o in space.record(a, 3)] == sorted(x.ctypes.data + 3 * 4096 for x in (a, c))
    space.unregister(a)
    assert space.record(c, 3) == []


def test_registered_while_a_device_has_the_pages(space: hmm.AddressSpace, views: Views) -> None:
    a, b = views.another(), views.another()
    space.register(a)
    space.devices[0].write(a, 7)
    space.register(b)
    assert (b == 7).all() and (space.devices[0].read(b) == 7).all()
    b[5] = 8
    assert a[5] == 8


@pytest.mark.parametrize("how", ["unregister", "delete"])
def test_one_goes_and_the_other_stays(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray], views: Views, how: str
) -> None:
    a, b = pair
    del pair
    space.devices[0].write(b, 3)
    if how == "unregister":
        space.unregister(b)
        assert (b == 3).all()
    del b
    gc.collect()
    assert (a == 3).all()
    space.devices[0].write(a[: 9 * INTS], 4)
    assert (a[: 9 * INTS] == 4).all() and (a[9 * INTS :] == 3).all()
    c = space.register(views.another())
    c[0] = 5
    assert space.devices[0].read(a)[0] == 5


def test_unregistered_with_nothing_of_its_own(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    """What it shows from then on is what was written through the other."""
    a, b = pair
    space.devices[0].write(a, 3)
    space.unregister(b)
    assert (b == 3).all()
    np.testing.assert_array_equal(space.devices[0].read(a), b)


def test_parts_of_one_object(space: hmm.AddressSpace, tmp_path: Path) -> None:
    numbers().tofile(tmp_path / "data")
    middle = space.register(np.memmap(tmp_path / "data", np.int32, "r+", 3 * 4096 + 40, (5 * INTS,)))
    whole = space.register(np.memmap(tmp_path / "data", np.int32, "r+"))
    reader = space.register(np.memmap(tmp_path / "data", np.int32, "r"))
    space.devices[0].write(middle, -1)
    want = numbers()
    want[3 * INTS + 10 :][: 5 * INTS] = -1
    np.testing.assert_array_equal(whole, want)
    np.testing.assert_array_equal(space.devices[0].read(reader), want)
    whole[4 * INTS] = want[4 * INTS] = 9
    np.testing.assert_array_equal(reader, want)
    with pytest.raises(hmm.Error, match="read-only"):
        space.prefetch(reader, space.devices[0])


def test_a_ring_buffer(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    """The same memory twice in one array: the classic trick, which puts both owners in one block."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fd, half = os.memfd_create("ring"), 8 * 4096
    os.ftruncate(fd, half)
    base = libc.mmap(None, 2 * half, 0, 0x22, -1, 0)
    for at in (base, base + half):
        assert libc.mmap(at, half, 3, 0x11, fd, 0) == at
    x = np.frombuffer((ctypes.c_int32 * (half // 2)).from_address(base), np.int32)
    low, high = x[: half // 4], x[half // 4 :]
    with space:
        space.register(x)
        space.devices[0].write(x[half // 4 - 100 :][:200], 5)  # across the seam
        assert (low[:100] == 5).all() and (high[-100:] == 5).all() and low.sum() == 1000
        space.devices[0].write(x, np.r_[np.zeros(half // 4), np.arange(half // 4)].astype(np.int32))
        np.testing.assert_array_equal(low, np.arange(half // 4))
        kernels.get_function("add")(1, 64, (low, low.size, 1))
        space.synchronize()
        np.testing.assert_array_equal(high, np.arange(half // 4) + 1)
        space.prefetch(x, space.devices[0])
        assert in_child(lambda: bool((low == high).all() and low[7] == 8)) == 0
        space.discard(x)
        assert not x.any()
        space.unregister(x)
    os.close(fd)


def test_too_many_owners(space: hmm.AddressSpace, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(4096))
    owners = [space.register(np.memmap(tmp_path / "data", np.int32, "r+")) for _ in range(64)]
    with pytest.raises(hmm.UnsupportedError, match="more than 64 mappings"):
        space.register(np.memmap(tmp_path / "data", np.int32, "r+"))
    for i, owner in enumerate(owners):
        space.devices[0].write(owner[i : i + 1], i)
    assert all((x[:64] == np.arange(64)).all() for x in owners)


# ------------------------------------------------------------------------------------------ protectors


@pytest.mark.parametrize("writer", ["cpu", "device"])
def test_protectors_of_one_hear_of_writes_through_the_other(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray], writer: str
) -> None:
    a, b = pair
    space.devices[0].write(a[: 8 * INTS], -3)
    before = space.snapshot_of(b)
    want = b.copy()
    space.dirty(b), space.dirty(a)
    write(space, a[4 * INTS : 6 * INTS], writer, 1)
    assert space.dirty(b).tolist() == [4, 5] == space.dirty(a).tolist()
    write(space, b[5 * INTS : 7 * INTS], writer, 2)
    assert space.dirty(b).tolist() == [5, 6] == space.dirty(a).tolist()
    assert space.dirty(b).tolist() == [] == space.dirty(a).tolist()
    np.testing.assert_array_equal(np.asarray(before), want)


def test_a_protector_is_told_once_and_with_the_content_before(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    a, b = pair
    told: list[tuple[int, int]] = []

    class Journal:
        def on_write(self, pages: hmm.WrittenPages) -> None:
            told.extend(
                (int(i), int(p.view(np.int32)[0])) for i, p in zip(pages.indices, pages.before, strict=True)
            )

    with space.protect(b, Journal()) as protection:
        space.devices[0].write(a[2 * INTS : 4 * INTS], -1)
        a[2 * INTS] = 5
        b[3 * INTS] = 6
        space.dirty(a)  # notices
        protection.flush()
        assert told == [(2, 2 * INTS), (3, 3 * INTS)]
        protection.arm()
        a[3 * INTS + 1] = 7
        space.residency(a)
        protection.flush()
        assert told[2:] == [(3, 6)]
    a[0] = 9
    assert b[0] == 9 and len(told) == 3


def test_armed_before_the_other_is_registered(space: hmm.AddressSpace, views: Views) -> None:
    a, b = views.another(), views.another()
    space.register(a)
    frozen = space.snapshot_of(a)
    space.register(b)
    b[:] = 4
    assert not np.asarray(frozen).any() and (a == 4).all()


# ------------------------------------------------------------------------------- what else walks the record


def test_discard(space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    space.devices[0].write(b, 3)
    space.discard(a)
    assert not b.any() and not space.devices[0].read(a).any()
    space.devices[0].write(b[:INTS], 3)
    assert (a[:INTS] == 3).all() and not a[INTS:].any()


def test_a_small_device(views: Views) -> None:
    """Pages with several owners are evicted, nothing is lost."""
    with hmm.AddressSpace(device_memory=4 << 20, timeout=60) as space:
        a, b = views.another(), views.another()
        filler = space.zeros(4 << 20, np.uint8)
        space.register(a), space.register(b)
        rng, want = np.random.default_rng(1), a.copy()
        for _ in range(60):
            x = (a, b)[rng.integers(2)]
            page, count = rng.integers(PAGES), rng.integers(1, 200)
            part = slice(page * INTS + 3, (page + count) * INTS - 3)
            want[part] = value = rng.integers(1 << 30)
            space.devices[0].write(x[part], value)
            space.devices[0].write(filler, 1)
            y = (a, b)[rng.integers(2)]
            np.testing.assert_array_equal(read(space, y, ("cpu", "device")[rng.integers(2)]), want)
        space.close()


def test_fork(space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    space.devices[0].write(a[: 9 * INTS], 3)
    space.devices[0].write(b[9 * INTS : 18 * INTS], 4)
    assert in_child(lambda: bool((b[: 9 * INTS] == 3).all() and (a[9 * INTS : 18 * INTS] == 4).all())) == 0
    a[0] = 5
    assert space.devices[0].read(b)[0] == 5


def test_close_leaves_plain_memory(views: Views) -> None:
    a, b = views.another(), views.another()
    with hmm.AddressSpace(timeout=60) as space:
        space.register(a), space.register(b)
        space.devices[0].write(a[: 9 * INTS], 3)
        space.dirty(b)
    assert (b[: 9 * INTS] == 3).all()
    b[0], a[1] = 1, 2
    assert a[0] == 1 and b[1] == 2


def test_pages_with_several_owners_are_not_merged(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    a, b = pair
    assert (a == b).all()  # the CPU has both
    try:
        result = space.merge(a, b)
    except hmm.UnsupportedError:
        pytest.skip("this tracker cannot merge")
    assert result.merged == 0 and result.skipped == 2 * PAGES
    a[5] = -5
    assert b[5] == -5


def test_merged_before_the_other_is_registered(space: hmm.AddressSpace, views: Views) -> None:
    a, b, x = views.another(), views.another(), space.array(numbers())
    a[:] = numbers()
    space.register(a)
    try:
        assert space.merge(a, x).merged
    except hmm.UnsupportedError:
        pytest.skip("this tracker cannot merge")
    space.register(b)
    b[5] = -5
    assert a[5] == -5 and x[5] == 5


# ------------------------------------------------------------------------------------- many threads at once


def test_no_update_is_lost(
    space: hmm.AddressSpace, pair: tuple[np.ndarray, np.ndarray], kernels: hmm.RawModule
) -> None:
    """Two CPU threads and a device, each with integers of its own in the same few pages, through both mappings."""
    pages = 12
    pair[0][: pages * INTS] = 0
    stop = threading.Event()
    failures: list[str] = []
    counts = [np.zeros((pages, 2), np.int64) for _ in range(2)]

    def thread(me: int) -> None:
        rng = np.random.default_rng(me)
        while not stop.is_set():
            page, half = int(rng.integers(pages)), int(rng.integers(2))
            x = pair[int(rng.integers(2))]
            at = page * INTS + me + 2 * half
            if x[at] != counts[me][page, half]:
                failures.append(f"thread {me}: {x[at]} at {at}, not {counts[me][page, half]}")
                return
            counts[me][page, half] += 1
            pair[int(rng.integers(2))][at] = counts[me][page, half]

    threads = [threading.Thread(target=thread, args=(me,)) for me in range(2)]
    for t in threads:
        t.start()
    want, end = np.zeros(pages, np.int32), time.monotonic() + 60
    rng, poke = np.random.default_rng(9), kernels.get_function("poke")
    try:
        for value in itertools.count(1):
            if failures or (value >= 150 and min(c.sum() for c in counts) > 100):
                break
            assert time.monotonic() < end, "a thread gets nowhere"
            page = int(rng.integers(pages))
            source, target = pair[int(rng.integers(2))], pair[int(rng.integers(2))]
            if space.tracker == "async":  # a kernel does not see what the CPU stores meanwhile
                space.devices[0].write(target[page * INTS + 100 :][:1], value)
            else:
                poke(1, 1, (target, page * INTS + 100, value), device=space.devices[0])
                space.synchronize()
            want[page] = value
            got = source[100 : pages * INTS : INTS] if value % 2 else None
            if got is None:
                got = space.devices[0].read(source[: pages * INTS])[100::INTS]
            np.testing.assert_array_equal(got, want)
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert not any(t.is_alive() for t in threads)
    assert not failures, failures
    for x in pair:
        for me in range(2):
            np.testing.assert_array_equal(x[me : pages * INTS : INTS], counts[me][:, 0])
            np.testing.assert_array_equal(x[me + 2 : pages * INTS : INTS], counts[me][:, 1])


@pytest.mark.parametrize("seed", range(3))
def test_random_use_against_numpy(
    seed: int, two_devices: hmm.AddressSpace, views: Views, kernels: hmm.RawModule
) -> None:
    space, rng = two_devices, np.random.default_rng(seed)
    owners = [space.register(views.another()) for _ in range(3)]
    want = np.zeros(PAGES * INTS, np.int32)
    frozen: list[tuple[hmm.Snapshot, np.ndarray]] = []
    with space:
        for number in range(300):
            x = owners[rng.integers(3)]
            begin = int(rng.integers(PAGES * INTS - 1))
            part = slice(begin, min(begin + int(rng.integers(1, 40 * INTS)), want.size))
            device = space.devices[rng.integers(2)]
            action = rng.integers(9)
            if action == 0:
                x[part] = want[part] = number
            elif action == 1:
                device.write(x[part], number)
                want[part] = number
            elif action == 2:
                with device:
                    kernels.get_function("add")(4, 64, (x[part], x[part].size, 1))
                    device.synchronize()
                want[part] += 1
            elif action == 3:
                np.testing.assert_array_equal(device.read(x[part]), want[part])
            elif action == 4:
                np.testing.assert_array_equal(x[part], want[part])
            elif action == 5:
                space.prefetch(x[part], device if rng.integers(2) else hmm.cpu, write=bool(rng.integers(2)))
            elif action == 6 and len(frozen) < 4:
                frozen.append((space.snapshot_of(x[part]), want[part].copy()))
            elif action == 7:
                i = int(rng.integers(3))
                space.unregister(owners[i])
                owners[i] = space.register(views.another())
            elif action == 8:
                residency = np.stack([space.residency(y) for y in owners])
                writers = np.char.count(residency, "X")
                holders = (residency != "---").sum(0)
                assert (writers.sum(0) <= 1).all() and (holders[writers.sum(0) == 1] == 1).all()
        for snapshot, content in frozen:
            np.testing.assert_array_equal(np.asarray(snapshot), content)
        for x in owners:
            np.testing.assert_array_equal(x, want)
