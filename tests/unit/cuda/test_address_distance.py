"""A GPU that cannot have the CPU's addresses, on the stand-in: everything is at one distance, and launches translate.

`pytest tests/unit/cuda --at-a-distance` runs all other tests of CUDA devices on such a GPU.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import weakref

import fakecuda
import numpy as np
import pytest
from click.testing import CliRunner

import hmmemu as hmm
from hmmemu import _native
from hmmemu.cli.group import main
from hmmemu.gpus import PROGRAM
from hmmemu.mappings import all_mappings

SOURCE = r"""
__device__ int launches;
extern "C" __global__ void add(int* x, const int* y, long long n) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
    x[i] += y[i];
  if (blockIdx.x == 0 && threadIdx.x == 0) launches += 1;
}
extern "C" __global__ void where(unsigned long long* out, const int* other, unsigned long long number) {
  out[0] = (unsigned long long)out; out[1] = (unsigned long long)other; out[2] = number;
}
extern "C" __global__ void fill_to(int* at, int* end, int value) { while (at != end) *at++ = value; }
extern "C" __global__ void follow(int* const* table) { *table[0] = 1; }
struct Pair { int* at; double scale; };
extern "C" __global__ void scale(Pair given, int n) { for (int i = 0; i < n; ++i) given.at[i] *= given.scale; }
extern "C" __global__ void poke(int* x, const int* pages, int count, int value) {
  for (int i = 0; i < count; ++i) x[pages[i] * 1024LL] = value;
}
extern "C" __global__ void count(int* hits, int n) { for (int i = 0; i < n; ++i) atomicAdd_system(hits, 1); }
extern "C" __global__ void wait(volatile int* flag, volatile int* answer) { while (*flag == 0) { } *answer = *flag + 1; }
extern "C" __global__ void fail(int* x) { x[0] = 1; assert(x[0] == 2); }
"""


ROOM = 16 << 20  # for heaps and stacks that grow


def map_at(address, bytes, down=False):
    """A mapping at an address, or at the next one above or below it at which this process has nothing, as an array.

    A heap may lie anywhere in the first GiB, a stack anywhere in the last 16, mappings anywhere below that.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    fixed_noreplace = 0x100000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed_noreplace
    for m in sorted(all_mappings(), key=lambda m: m.begin, reverse=down):
        if m.begin - ROOM < address + bytes and address < m.end + ROOM:
            address = m.begin - ROOM - bytes if down else m.end + ROOM
    assert libc.mmap(address, bytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == address
    memory = (ctypes.c_int32 * (bytes // 4)).from_address(address)
    weakref.finalize(memory, libc.munmap, address, bytes)
    return np.ctypeslib.as_array(memory)


ODD = 0x123400000000


@pytest.fixture
def far(gpu):
    """far("delay_us=100"): a space on a GPU that has none of the CPU's addresses."""
    return lambda settings="", **options: gpu(f"{settings},{fakecuda.AT_A_DISTANCE}", **options)


@pytest.fixture
def kernels():
    return hmm.RawModule(SOURCE, filename="distance.cu")


def launch(space, kernels, name, *args, grid=(1,), block=(1,), device=0, **options):
    given = tuple(np.int32(a) if type(a) is int else a for a in args)
    kernels.get_function(name)(grid, block, given, device=space.devices[device], **options)


def add(space, kernels, x, y, **options):
    launch(space, kernels, "add", x, y, np.int64(x.size), grid=(4,), block=(64,), **options)


def test_without_need_there_is_no_distance(gpu):
    device = gpu().devices[0]
    assert device.address_distance == 0 and "addresses" not in repr(device)
    with hmm.AddressSpace("emulated") as space:
        assert space.devices[0].address_distance == 0


@pytest.mark.parametrize("refusal", ["", "strict=1"])
def test_a_device_says_its_distance(far, refusal):
    """Whether CUDA gives other addresses than it was asked for, or an error."""
    device = far(refusal).devices[0]
    assert device.address_distance and device.address_distance % (2 << 20) == 0
    assert f"addresses {device.address_distance:+#x} bytes from the CPU's" in repr(device)


def test_arrays_of_all_kinds(far, kernels):
    """Arena, heap and mapping, views that begin inside; each launch sees what the CPU wrote, and the other way."""
    space = far("delay_us=300,kernel_us=2000")
    y = map_at(ODD + (32 << 20), 4 * 700_416)[:700_001]  # where mmap puts it there may be no room above
    x, small = space.full(700_001, 1, np.int32), np.arange(50, dtype=np.int32)
    expected = x.copy()
    for turn in range(3):
        y[turn::7] = turn
        add(space, kernels, x, y)
        add(space, kernels, x[3:53], small)
        expected += y
        expected[3:53] += small
        assert np.array_equal(x, expected)
    with space.devices[0]:
        assert kernels.get_global("launches").view(np.int32)[0] == 6


def test_memory_at_both_ends(far, kernels):
    """A heap near 0 and mappings below 2^47, as Python has that is not built to be moved."""
    space = far("delay_us=100")
    low, high, x = (
        map_at(1 << 28, 1 << 20),
        map_at((1 << 47) - (2 << 30), 1 << 20, down=True),
        space.ones(1 << 18, np.int32),
    )
    low[:], high[:] = 5, 7
    add(space, kernels, low, high)
    add(space, kernels, x, low)
    assert (low == 12).all() and (x == 13).all()
    distance = space.devices[0].address_distance
    launch(space, kernels, "where", out := space.zeros(3, np.uint64), high, np.uint64(0))
    assert out[1] == (high.ctypes.data + distance) % (1 << 47)


def test_pointers_are_translated_for_the_launch_only(far, kernels):
    """Kernels see the GPU's addresses; numbers stay what they are, null pointers too."""
    space = far()
    distance = space.devices[0].address_distance
    out, other = space.zeros(3, np.uint64), np.zeros(4, np.int32)
    address = np.uint64(other.ctypes.data)
    launch(space, kernels, "where", out, other[2:], address)
    distance = space.devices[0].address_distance
    assert [int(v) for v in out] == [
        (out.ctypes.data + distance) % (1 << 47),
        (other.ctypes.data + 8 + distance) % (1 << 47),
        other.ctypes.data,
    ]
    launch(space, kernels, "where", out, None, np.uint64(0))
    assert out[1] == 0


def test_a_pointer_just_behind_an_array(far, kernels):
    """Where the device has nothing: it stays behind its array."""
    space = far()
    x = map_at(ODD + (8 << 20), 2 << 20)
    launch(space, kernels, "fill_to", x, np.uint64(x.ctypes.data + x.nbytes), 7)
    assert (x == 7).all()


def test_what_needs_pointers_in_data_is_refused(far, kernels):
    """Nothing was launched, and the arrays stay usable."""
    space = far()
    x = space.zeros(4, np.int32)
    table = np.array([x.ctypes.data], np.uint64)
    words = "follows pointers in data, as %s says, and on CUDA device 0 .* [-+]0x[0-9a-f]+ bytes"
    for options in ({}, {"reaches": [x]}):
        with pytest.raises(hmm.UnsupportedError, match=words % r"its parameter int\* ?const\* table"):
            launch(space, kernels, "follow", table, **options)
    with pytest.raises(hmm.UnsupportedError, match=words % r"reaches= \(of the launch or the Policy\)"):
        add(space, kernels, x, x, reaches=[table])
    pair = np.zeros(1, [("at", np.uint64), ("scale", np.float64)])
    pair[0] = x.ctypes.data, 2.5
    with pytest.raises(hmm.UnsupportedError, match=words % "its parameter Pair given"):
        launch(space, kernels, "scale", pair[0], x.size)
    assert not x.any()
    add(space, kernels, x, x + 1)
    assert (x == 1).all()


def test_a_policy_that_needs_pointers_in_data_is_refused(far, kernels):
    space = far(policy=hmm.Policy(reaches="registered"))
    x = space.zeros(4, np.int32)
    with pytest.raises(hmm.UnsupportedError, match="Policy"):
        add(space, kernels, x, x)


def test_pages_cross_by_the_helpers_own_kernels(far, kernels):
    """Scattered there, compared, and gathered."""
    space = far("delay_us=100", policy=hmm.Policy(grow=False))
    memory = space.zeros((512 + 600) * 1024, np.int32)
    first = -memory.ctypes.data // 4 % (512 * 1024)
    x = memory[first : first + 600 * 1024]
    launch(space, kernels, "poke", x, np.zeros(1, np.int32), 1, 0)
    x[:: 2 * 1024] = 3  # pages that lie apart; the GPU has the others
    pages = np.arange(0, 600, 10, dtype=np.int32)
    launch(space, kernels, "poke", x, pages, pages.size, 9)
    space.prefetch(x, hmm.cpu)
    expected = np.where(np.arange(x.size) % 2048, 0, 3)
    expected[:: 10 * 1024] = 9
    assert np.array_equal(x, expected)
    crossed = space.devices[0].crossings
    assert crossed["scattered_pages"] >= 300 and crossed["gathered_pages"] >= pages.size
    assert crossed["unchanged_pages"] >= 240  # of 300 that the file has, too


def test_atomics_in_shared_memory(far, kernels):
    space = far("delay_us=100,kernel_us=20000")
    hits, stream = space.zeros(1, np.int32), hmm.Stream()
    own = 0
    launch(space, kernels, "count", hits, 5000, stream=stream)
    while not stream.done:
        hmm.atomic_add(hits, 0, 1)
        own += 1
    stream.synchronize()
    assert hits[0] == 5000 + own and space.residency(hits) == ["XR"]


def test_a_kernel_that_waits_for_the_cpu(far, kernels):
    space = far("delay_us=100")
    flag, answer, stream = space.zeros(1, np.int32), space.zeros(1, np.int32), hmm.Stream()
    launch(space, kernels, "wait", flag, answer, stream=stream)
    hmm.atomic_store(flag, 0, 5)
    stream.synchronize()
    assert answer[0] == 6


def test_a_failure_saves_the_content_and_keeps_the_distance(far, kernels):
    space = far("delay_us=100")
    x, y = space.zeros(5000, np.int32), space.ones(5000, np.int32)
    add(space, kernels, x, y)
    distance = space.devices[0].address_distance
    with pytest.raises(hmm.KernelAssertion, match="Assertion"):
        launch(space, kernels, "fail", space.zeros(1, np.int32))
    assert (x == 1).all() and space.devices[0].address_distance == distance
    add(space, kernels, x, y)
    assert (x == 2).all()


def test_workloads(stand_in, tmp_path):
    """All but the one that walks a tree of pointers, which says why."""
    stand_in(f"delay_us=20,{fakecuda.AT_A_DISTANCE}")
    command = ["run", "histogram", "bfs", "tree_walk", "--size", "tiny", "--device", "cuda", "--json"]
    done = CliRunner().invoke(main, [*command, str(tmp_path / "run.json")])
    found = {w["name"]: w for w in json.loads((tmp_path / "run.json").read_text())["workloads"]}
    assert done.exit_code == 1 and [w["verified"] for w in found.values()] == [True, True, False]
    assert "bytes from the CPU's: pointers in data do not work there" in done.output
    assert "tree_walk follows pointers in data, as reaches= (of the launch or the Policy) says" in done.output


def test_views_have_addresses_of_their_own(far, kernels, cupy):
    space = far()
    x = space.zeros(2000, np.int32)
    with space.device_view(x) as view:
        view.fill_bytes(1)
    add(space, kernels, x, x)
    assert (x == 0x02020202).all()


@pytest.mark.parametrize("devices", [["cuda", "emulated"], ["emulated", "cuda"]])
def test_beside_an_emulated_device(far, kernels, devices):
    space = far("delay_us=100", device=devices)
    assert [bool(d.address_distance) for d in space.devices] == [d == "cuda" for d in devices]
    x, y = np.zeros(5000, np.int32), space.ones(5000, np.int32)
    for turn in range(4):
        add(space, kernels, x, y, device=turn % 2)
    assert (x == 4).all()


def test_a_registration_that_needs_a_distance(gpu, kernels):
    """The device is started again, and what it alone had is where it was."""
    space = gpu("delay_us=100,refuse=0x120000000000-0x130000000000")
    x, y = space.zeros(5000, np.int32), space.ones(5000, np.int32)
    add(space, kernels, x, y)
    assert space.devices[0].address_distance == 0
    z = map_at(ODD, 1 << 20)
    z[:] = 4
    add(space, kernels, x, z[:5000])
    assert (x == 5).all() and space.devices[0].address_distance != 0
    add(space, kernels, z, z)
    assert (z == 8).all()
    space.unregister(z)


def test_addresses_that_are_never_given(gpu):
    with pytest.raises(
        hmm.RangeError, match="in any of its 4 address layouts, nor at another distance: unregister"
    ):
        gpu("elsewhere=1")


def test_a_registration_that_no_distance_suits(gpu, kernels):
    """A GPU that has addresses of arenas only: what is far from them has no place. The device is as it was."""
    space = gpu("delay_us=100,refuse=0x2a0000000000-0x160000000000")
    x, y = space.ones(1 << 18, np.int32), space.ones(1 << 18, np.int32)
    add(space, kernels, x, y)
    z = map_at(1 << 40, 1 << 20)  # 21 TiB below the lowest arena; arenas begin within 20 TiB
    with pytest.raises(hmm.RangeError, match="unregister the array registered last"):
        space.register(z)
    assert space.devices[0].address_distance == 0
    add(space, kernels, x, y)
    assert (x == 3).all()


def test_distances_that_cannot_be(stand_in):
    stand_in()
    process = _native.DeviceProcess(str(PROGRAM), tracker="launch")
    try:
        with pytest.raises(hmm.RangeError, match="whole blocks of 2 MiB away, not 4096 bytes"):
            process.restart(0, 4096)
        assert process.distance == 0 and process.alive
    finally:
        process.kill()
    with (
        hmm.AddressSpace("emulated") as space,
        pytest.raises(hmm.RangeError, match="of other devices are the CPU's"),
    ):
        space.devices[0].process.restart(0, 2 << 20)
