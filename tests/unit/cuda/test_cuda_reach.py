"""What launches on a GPU name beside their arguments, on the stand-in: memory that is not there is a crash of the helper."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.arguments import pack
from hmmemu.ranges import extent

SOURCE = r"""
extern "C" __global__ void gather(const int* const* x, int* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = *x[i];
}
extern "C" __global__ void scatter(int* const* x, int n, int value) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) *x[i] += value;
}
"""


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="reach.cu")


def pointers(space, count, plain=False):
    """`count` arrays of an int each, and the array of their addresses."""
    make = (lambda i: np.full(1, i, np.int32)) if plain else (lambda i: space.full(1, i, np.int32))
    arrays = [make(i) for i in range(count)]
    return arrays, np.array([a.ctypes.data for a in arrays], np.uint64)


def scatter(kernels, table, value, **options):
    given = table, np.int32(table.size), np.int32(value)
    kernels.get_function("scatter")((1,), (128,), given, **options)


@pytest.mark.parametrize("count", [3, 65, 600])
def test_arrays_that_are_reached_by_pointers(gpu, kernels, count):
    space = gpu("delay_us=100")
    with space.devices[0]:
        arrays, table = pointers(space, count)
        y = space.zeros(count, np.int32)
        for turn in range(3):
            scatter(kernels, table, 5, reaches=arrays)
            assert [int(a[0]) for a in arrays] == [i + 5 * turn + 5 for i in range(count)]
        given = table, y, np.int32(count)
        kernels.get_function("gather")((1,), (128,), given, reaches=[hmm.In(a) for a in arrays])
        assert (y == np.arange(count) + 15).all()
        assert {r[0] for a in arrays for r in space.residency(a)} == {"S"}  # the CPU keeps what is only read


def test_plain_arrays(gpu, kernels):
    """Neighbours on pages of the heap."""
    space = gpu()
    with space.devices[0]:
        arrays, table = pointers(space, 100, plain=True)
        scatter(kernels, table, 1, reaches=arrays)
        assert [int(a[0]) for a in arrays] == [i + 1 for i in range(100)]


def test_everything_registered(gpu, kernels):
    space = gpu(policy=hmm.Policy(reaches="registered"))
    with space.devices[0]:
        arrays, table = pointers(space, 20)
        text = space.zeros(5)
        text.setflags(write=False)
        for turn in range(2):
            scatter(kernels, table, 1)
            assert [int(a[0]) for a in arrays] == [i + turn + 1 for i in range(len(arrays))]
            del arrays[-1]  # freed: the next launch does not name it
            table = table[: len(arrays)].copy()


def test_what_is_not_named_is_not_there(gpu, kernels):
    space = gpu()
    with space.devices[0]:
        arrays, table = pointers(space, 2)
        kept = arrays[0].copy()
        with pytest.raises(hmm.DeviceError, match=r"illegal (write|read|access)"):
            scatter(kernels, table, 1)
        assert arrays[0][0] == kept[0]
        scatter(kernels, table, 1, reaches=arrays)
        assert [int(a[0]) for a in arrays] == [1, 2]


def test_the_ring_of_ranges_goes_round(gpu, kernels):
    """65,536 ranges under way at most: launches wait for room, and each has its own ranges, the last ones too."""
    space = gpu("delay_us=1")
    device = space.devices[0]
    with device:
        arrays, table = pointers(space, 5)
        scatter(kernels, table, 1, reaches=arrays)
        kernel = device.load(kernels.compiled).kernel("scatter")
        given = pack(
            "scatter", kernel.parameters, kernel.parameter_bytes, (table, np.int32(5), np.int32(1))
        ).block
        arrays[0][0] = 1  # the CPU takes a page back
        needed = [(*extent(a).pages, True) for a in (table, *arrays)]
        for turn in range(10):
            ranges = [(0, 0, False)] * 20_000 + needed
            ticket = device.process.launch(
                kernel.handle, (1, 1, 1), (1, 1, 1), 0, given, reaches=ranges, timeout=30
            )
            if turn % 4 == 3:
                device.wait(ticket, 30)
                assert [int(a[0]) for a in arrays] == [i + turn + 2 for i in range(5)]
        device.wait(ticket, 30)
        assert [int(a[0]) for a in arrays] == [i + 11 for i in range(5)]


def test_more_ranges_than_can_be(gpu, kernels):
    space = gpu()
    process = space.devices[0].process
    with pytest.raises(
        hmm.RangeError, match="a launch reaches at most 65536 arrays that lie apart, not 65537"
    ):
        process.launch(0, (1, 1, 1), (1, 1, 1), 0, b"", reaches=[(0, 0, False)] * 65537)
