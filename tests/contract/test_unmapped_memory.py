"""Memory that the program unmaps while it is registered: nobody waits, nobody dies, what is left stays right."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from forking import in_child
from page_states import State, alone, away, copied, frozen, logged

import hmmemu as hmm

PAGES, INTS = 24, 1024
GONE = slice(8 * INTS, 16 * INTS)
BEFORE, AFTER = slice(0, GONE.start), slice(GONE.stop, None)
MAP_FIXED = 0x10
APART = 0x2000_0000_0000  # far from where the kernel puts mappings: nobody else fills the hole

Space = hmm.AddressSpace


class Memory(np.ndarray):  # type: ignore[type-arg]
    """An array that pytest does not read to print it: a part of it may not be there."""

    def __repr__(self) -> str:
        return "x"


libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@pytest.fixture(params=["private", "shared"])
def x(request: pytest.FixtureRequest) -> Iterator[np.ndarray]:
    sharing = mmap.MAP_PRIVATE if request.param == "private" else mmap.MAP_SHARED
    address = libc.mmap(APART, PAGES * 4096, 3, sharing | mmap.MAP_ANONYMOUS, -1, 0)
    made = np.ctypeslib.as_array((ctypes.c_int * (PAGES * INTS)).from_address(address))
    made[:] = 7
    yield made.view(Memory)
    libc.munmap(address, PAGES * 4096)


def unmap(part: np.ndarray) -> None:
    assert libc.munmap(part.ctypes.data, part.nbytes) == 0


STATES = [alone, copied, away, logged, frozen]
each_state = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)


def check_the_rest(space: Space, x: np.ndarray) -> None:
    assert (x[BEFORE] == 7).all() and (x[AFTER] == 7).all()
    for device in space.devices:
        assert (device.read(x[BEFORE]) == 7).all()
    space.devices[0].write(x[AFTER], 8)
    x[BEFORE] = 9
    assert (space.devices[1].read(x[BEFORE]) == 9).all()
    space.unregister(x)
    assert (x[BEFORE] == 9).all() and (x[AFTER] == 8).all()
    x[BEFORE] = 1


ACTS: dict[str, Callable[[Space, np.ndarray], object]] = {
    "nothing": lambda space, x: None,
    "read_by_a_device": lambda space, x: space.devices[1].read(x[GONE]),
    "written_by_a_device": lambda space, x: space.devices[1].write(x[GONE], 3),
    "all_to_a_device": lambda space, x: space.prefetch(x, space.devices[1], write=True),
    "all_to_the_cpu": lambda space, x: space.prefetch(x, hmm.cpu, write=True),
    "discarded": lambda space, x: space.discard(x[GONE]),
    "protected": lambda space, x: space.dirty(x[GONE]),
}


@each_state
@pytest.mark.parametrize("act", ACTS)
def test_what_is_gone_is_an_error_and_the_rest_is_right(
    two_devices: Space, x: np.ndarray, state: State, act: str
) -> None:
    space = two_devices
    space.register(x)
    kept = state(space, x)
    unmap(x[GONE])
    try:
        ACTS[act](space, x)
    except hmm.RangeError as error:
        assert "mapped" in str(error) or "not in the address space" in str(error)
    check_the_rest(space, x)
    del kept


@each_state
def test_a_fork_and_the_end_of_the_space(two_devices: Space, x: np.ndarray, state: State) -> None:
    space = two_devices
    space.register(x)
    kept = state(space, x)
    unmap(x[GONE])
    assert in_child(lambda: (x[BEFORE] == 7).all()) == 0
    space.close()
    assert (x[BEFORE] == 7).all() and (x[AFTER] == 7).all()
    x[BEFORE] = 1
    del kept


def test_a_kernel_that_touches_it_fails(
    space: Space, kernels: hmm.RawModule, x: np.ndarray, request: pytest.FixtureRequest
) -> None:
    shared = request.node.callspec.params["x"] == "shared"  # what is unmapped is still in its file
    with space:
        space.register(x)
        unmap(x[GONE])
        try:
            kernels.get_function("add")(1, 64, (x, x.size, 1))
        except hmm.KernelFault as error:
            assert "nobody owns" in str(error)
        else:
            assert shared, "private memory is gone when it is unmapped"
    x[BEFORE] = x[AFTER] = 1


@each_state
def test_memory_that_the_next_owner_has_is_his(two_devices: Space, x: np.ndarray, state: State) -> None:
    """Mapped again at the same place, before the registration ends."""
    space = two_devices
    if space.tracker == "signal" and state is away:
        pytest.skip("protection is by address: what lies there counts as the array's")
    space.register(x)
    kept = state(space, x)
    unmap(x[GONE])
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    assert libc.mmap(x[GONE].ctypes.data, x[GONE].nbytes, 3, flags, -1, 0) == x[GONE].ctypes.data
    x[GONE] = 5
    space.unregister(x)
    assert (x[GONE] == 5).all() and (x[BEFORE] == 7).all() and (x[AFTER] == 7).all()
    del kept
