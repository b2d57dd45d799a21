"""Every transition of the protocol on live memory: two processes, real faults, one page at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import hmmemu as hmm

INTS = 1024  # a page of int32


def access(space: hmm.AddressSpace, who: str, write: bool, page: np.ndarray, value: int) -> int:
    """One access by the CPU ("c") or a device ("0", "1"); returns what it saw, or wrote."""
    if who == "c":
        if write:
            page[:] = value
        return int(page[5])
    device = space.devices[int(who)]
    if write:
        device.write(page, value)
        return value
    return int(device.read(page)[5])


def expected(state: str, who: int, write: bool) -> str:
    """MSI, written down a second time: after an access, who holds what."""
    if write or (set(state) == {"-"}):
        if not write or state[who] != "X":
            return "".join("X" if p == who else "-" for p in range(3))
        return state
    if state[who] != "-":
        return state
    return "".join("S" if p == who or h != "-" else "-" for p, h in enumerate(state))


ACCESSES = list(itertools.product("c01", (False, True)))


@pytest.mark.parametrize("first", ACCESSES, ids=lambda a: a[0] + "rw"[a[1]])
@pytest.mark.parametrize("second", ACCESSES, ids=lambda a: a[0] + "rw"[a[1]])
def test_any_three_accesses(two_devices: hmm.AddressSpace, first: tuple, second: tuple) -> None:
    space = two_devices
    pages = space.zeros((len(ACCESSES), INTS), np.int32)
    for page, third in zip(pages, ACCESSES, strict=True):
        state, latest = "---", 0
        assert list(space.residency(page)) == [state]
        for number, (who, write) in enumerate((first, second, third), 1):
            saw = access(space, who, write, page, number)
            latest = number if write else latest
            assert saw == latest
            state = expected(state, "c01".index(who), write)
            assert list(space.residency(page)) == [state]


def test_kernel_accesses_do_the_same(page_by_page: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    space = page_by_page
    x, out = space.zeros(INTS, np.int32), space.zeros(INTS, np.int32)
    peek, poke = kernels.get_function("peek"), kernels.get_function("poke")
    poke(1, 1, (x, 3, 7))  # first touch by the device
    assert list(space.residency(x)) == ["-X"]
    assert x[3] == 7  # a read by the CPU duplicates
    assert list(space.residency(x)) == ["SS"]
    x[4] = 8  # an upgrade
    assert list(space.residency(x)) == ["X-"]
    peek(1, 1, (x, 4, out))
    assert list(space.residency(x)) == ["SS"]
    assert out[0] == 8
    poke(1, 1, (x, 5, 9))
    assert list(space.residency(x)) == ["-X"]
    np.testing.assert_array_equal(x[2:7], [0, 7, 8, 9, 0])


def test_counts_are_exact_without_growth(page_by_page: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    space, pages = page_by_page, 50
    x = space.zeros(pages * INTS, np.int32)
    x[:] = 1
    space.reset_stats()
    kernels.get_function("add")(1, 256, (x, x.size, 1))
    assert int(x.sum()) == 2 * x.size
    cpu, device = space.stats().processors
    assert (cpu.read_faults, cpu.write_faults) == (pages, 0)
    assert device.faults >= pages  # a load first, then the store: a duplicate, then an upgrade
    assert (
        device.upgraded_pages
        + sum(t.bytes - t.duplicated_bytes for t in space.stats().transfers if t.direction == "HtoD") // 4096
        == pages
    )


def test_reading_in_order_costs_few_faults(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    pages = 4096
    x = space.zeros(pages * INTS, np.int32)
    kernels.get_function("fill")(16, 256, (x, x.size, 3))
    space.reset_stats()
    assert int(x.sum(dtype=np.int64)) == 3 * x.size
    assert 0 < space.stats().processors[0].faults < pages / 50


def test_no_read_duplication(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace(policy=hmm.Policy(grow=False, read_duplication=False), timeout=60) as space:
        x = space.full(INTS, 5, np.int32)
        assert int(space.devices[0].read(x)[0]) == 5
        assert list(space.residency(x)) == ["-X"]
        assert x[0] == 5
        assert list(space.residency(x)) == ["X-"]


def test_prefetch_moves_and_copies(page_by_page: hmm.AddressSpace) -> None:
    space = page_by_page
    x = space.empty(600 * INTS, np.int32)
    x[:] = np.arange(x.size)
    space.prefetch(x, space.devices[0], write=False)
    assert set(space.residency(x)) == {"SS"}
    space.prefetch(x, space.devices[0])
    assert set(space.residency(x)) == {"-X"}
    space.reset_stats()
    space.prefetch(x, hmm.cpu)
    assert set(space.residency(x)) == {"X-"}
    np.testing.assert_array_equal(x, np.arange(x.size))
    assert space.stats().processors[0].faults == 0


def test_discard_gives_zeros(page_by_page: hmm.AddressSpace) -> None:
    x = page_by_page.full(3 * INTS, 5, np.int32)
    page_by_page.discard(x[INTS:])
    assert list(page_by_page.residency(x)) == ["X-", "--", "--"]
    assert x[:INTS].all() and not x[INTS:].any()


def test_memory_is_given_back(page_by_page: hmm.AddressSpace) -> None:
    space = page_by_page
    device = space.devices[0]
    x = space.full(2000 * INTS, 5, np.int32)
    space.prefetch(x, device)
    assert space.session.device_bytes(device.processor) == x.nbytes
    space.prefetch(x, hmm.cpu)  # a large move home keeps the device's frames for the next one
    assert (x == 5).all()
    space.discard(x[: 1000 * INTS])
    assert space.session.device_bytes(device.processor) <= x.nbytes // 2
    assert not x[: 1000 * INTS].any() and (x[1000 * INTS :] == 5).all()
    del x
    space.memory.arena.collect()
    assert space.session.device_bytes(device.processor) == 0
    plain = np.ones(1 << 20)
    space.prefetch(space.register(plain), device)
    space.unregister(plain)
    assert space.session.device_bytes(device.processor) == 0 and plain.all()
