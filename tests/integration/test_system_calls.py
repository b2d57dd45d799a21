"""System calls on shared arrays: the kernel's own reads and writes fault as a store would.

Where the tracker cannot do that, they end in an error, and `prefetch` to the CPU makes them work.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu import trackers

N = 300_000


@pytest.fixture(params=["on the device", "shared", "at home"])
def x(request: pytest.FixtureRequest, space: hmm.AddressSpace) -> np.ndarray:
    array = space.array(np.arange(N, dtype=np.int32))
    if request.param == "on the device":
        space.devices[0].migrate(array)
    elif request.param == "shared":
        space.devices[0].read(array)
    return array


def ready(space: hmm.AddressSpace, x: np.ndarray) -> np.ndarray:
    """What a program has to do before a system call under a tracker that does not catch those."""
    if not trackers.probe(space.tracker).system_calls:
        space.prefetch(x, hmm.cpu)
    return x


def test_caught_or_an_error(space: hmm.AddressSpace, tmp_path: Path) -> None:
    x = space.array(np.arange(N, dtype=np.int32))
    space.devices[0].migrate(x)
    with (tmp_path / "data").open("wb", buffering=0) as file:
        if trackers.probe(space.tracker).system_calls:
            assert file.write(x) == x.nbytes
        else:
            with pytest.raises(OSError, match="Bad address"):
                file.write(x)
    np.testing.assert_array_equal(x, np.arange(N))


def test_readinto_is_seen_by_the_device(space: hmm.AddressSpace, x: np.ndarray, tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 1 << 30, N).astype(np.int32)
    data.tofile(tmp_path / "data")
    with (tmp_path / "data").open("rb", buffering=0) as file:
        assert file.readinto(memoryview(ready(space, x)).cast("B")) == x.nbytes
    np.testing.assert_array_equal(space.devices[0].read(x), data)


def test_tofile_writes_what_the_device_wrote(space: hmm.AddressSpace, x: np.ndarray, tmp_path: Path) -> None:
    space.devices[0].write(x, np.arange(N)[::-1])
    ready(space, x).tofile(tmp_path / "data")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "data", np.int32), np.arange(N)[::-1])


def test_recv_into(space: hmm.AddressSpace, x: np.ndarray) -> None:
    left, right = socket.socketpair()
    data = np.arange(N, dtype=np.int32) * 3
    sender = threading.Thread(target=left.sendall, args=(data.tobytes(),))
    sender.start()
    view = memoryview(ready(space, x)).cast("B")
    while view:
        view = view[right.recv_into(view) :]
    sender.join(30)
    left.close()
    right.close()
    np.testing.assert_array_equal(space.devices[0].read(x), data)
