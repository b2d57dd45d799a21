"""What a launch names, and kernels that touch anything else (`check_reach`): found wherever the pages are."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm

SOURCE = r"""
struct Node { Node* next; long long value; };
extern "C" __global__ void walk(const Node* node, long long* total) {
  long long sum = 0;
  for (; node; node = node->next) sum += node->value;
  *total = sum;
}
extern "C" __global__ void raise(Node* const* first, long long by) {
  for (Node* node = *first; node; node = node->next) node->value += by;
}
extern "C" __global__ void store(const long long* x) { *const_cast<long long*>(x) = 7; }
extern "C" __global__ void both(const long long* const* x, long long* y) { y[threadIdx.x] = x[threadIdx.x][0]; }
__device__ long long counter[600];
extern "C" __global__ void count(long long* x) { x[0] = ++counter[599]; }
extern "C" __global__ void fill(long long* x, int n) { for (int i = 0; i < n; ++i) x[i] = i; }
"""
NODE = np.dtype([("next", np.uint64), ("value", np.int64)])


@pytest.fixture
def checked(tracker):
    with hmm.AddressSpace(device="emulated", check_reach=True, workers=1) as space:
        yield space


@pytest.fixture(scope="module")
def module():
    return hmm.RawModule(SOURCE, filename="reach.cu")


def chain(space, lengths, plain=False):
    """A list through several arrays, one behind the other; the last array ends it."""
    pools = [np.zeros(n, NODE) if plain and i % 2 else space.zeros(n, NODE) for i, n in enumerate(lengths)]
    after = 0
    for pool in reversed(pools):
        first = pool.ctypes.data
        pool["next"] = first + NODE.itemsize * np.arange(1, pool.size + 1, dtype=np.uint64)
        pool["next"][-1], pool["value"] = after, 1
        after = first
    return pools


def walk(space, module, pools, **options):
    total = space.zeros(1, np.int64)
    module.get_function("walk")((1,), (1,), (pools[0], total), **options)
    return int(total[0])


def test_what_is_named_is_reached(checked, module):
    pools = chain(checked, [3, 600, 5], plain=True)
    assert walk(checked, module, pools, reaches=pools[1:]) == 608
    assert walk(checked, module, pools, reaches=(hmm.In(pools[1]), hmm.InOut(pools[2]))) == 608


def test_what_is_not_named_ends_the_kernel(checked, module):
    pools = chain(checked, [3, 600, 5])
    words = (
        r"kernel walk, block \[0,0,0\], thread \[0,0,0\].*: access to 0x[0-9a-f]+, page 0 of the array of "
        r"shape \(5,\), .*which this launch does not name: .*launch with reaches=\[array\]"
    )
    with pytest.raises(hmm.KernelFault, match=words):
        walk(checked, module, pools, reaches=[pools[1]])
    assert walk(checked, module, pools, reaches=pools) == 608  # the space works on
    with pytest.raises(hmm.KernelFault, match=r"page 0 of the array of shape \(600,\)"):
        walk(checked, module, pools, reaches=[pools[2]])


@pytest.mark.parametrize(
    "where", ["an earlier launch", "a prefetch to read", "a prefetch to write", "the device"]
)
def test_pages_that_the_device_has_already(checked, module, where):
    pools = chain(checked, [3, 600])
    device = checked.devices[0]
    if where == "an earlier launch":
        assert walk(checked, module, pools, reaches=pools) == 603
    elif where == "the device":
        device.write(pools[1], pools[1].copy())
    else:
        checked.prefetch(pools[1], device, write=where.endswith("write"))
    with pytest.raises(hmm.KernelFault, match=r"of the array of shape \(600,\)"):
        walk(checked, module, pools)
    assert pools[1]["value"].sum() == 600


def test_launches_in_a_queue_have_each_their_own(checked, module):
    pools, stream = chain(checked, [3, 600]), hmm.Stream()
    first = checked.zeros(1, np.uint64)
    first[0] = pools[0].ctypes.data
    for number in range(40):
        named = pools if number < 39 else pools[:1]
        module.get_function("raise")((1,), (1,), (first, np.int64(1)), stream=stream, reaches=named)
    with pytest.raises(hmm.KernelFault, match=r"kernel raise.*of the array of shape \(600,\)"):
        stream.synchronize()
    assert (pools[1]["value"] == 40).all()


def test_writing_what_is_said_to_be_read(checked, module):
    x = checked.zeros(1, np.int64)
    x[0] = 3
    with pytest.raises(hmm.KernelFault, match=r"write to .*says it only reads .*hmm.InOut\(array\)"):
        module.get_function("store")((1,), (1,), (x,))
    assert x[0] == 3
    module.get_function("store")((1,), (1,), (hmm.InOut(x),))
    assert x[0] == 7


def test_everything_registered(tracker, module):
    policy = hmm.Policy(reaches="registered")
    with hmm.AddressSpace(device="emulated", check_reach=True, policy=policy) as space:
        pools = chain(space, [3, 600, 5], plain=True)
        space.register(pools[1])
        readonly = space.zeros(10)
        readonly.setflags(write=False)
        assert walk(space, module, pools) == 608
        assert len(space.memory.arrays()) >= 4


def test_more_arrays_than_fit_on_a_page(checked, module):
    """Pointers to 1000 arrays; all are named, or all but one."""
    arrays = [checked.full(1, i, np.int64) for i in range(1000)]
    table = np.array([a.ctypes.data for a in arrays], np.uint64)
    y = checked.zeros(1000, np.int64)
    both = module.get_function("both")
    both((1,), (1000,), (table, y), reaches=[hmm.In(a) for a in arrays])
    assert (y == np.arange(1000)).all()
    with pytest.raises(hmm.KernelFault, match=rf"access to {arrays[700].ctypes.data:#x}, page 0 of"):
        both((1,), (1000,), (table, y), reaches=arrays[:700] + arrays[701:])


def test_variables_and_freed_memory(checked, module):
    x = checked.zeros(1, np.int64)
    for turn in range(3):
        module.get_function("count")((1,), (1,), (x,))
        assert x[0] == turn + 1
    assert module.get_global("counter").view(np.int64)[599] == 3
    gone = checked.zeros(5000, np.int64)
    address = gone.ctypes.data
    del gone
    checked.memory.arena.collect()
    with pytest.raises(hmm.KernelFault, match=r"which nobody owns|does not name"):
        module.get_function("fill")((1,), (1,), (address, np.int32(5)))


def test_without_the_check_names_cost_nothing(space, module):
    pools = chain(space, [3, 600], plain=True)
    space.register(pools[1])
    assert walk(space, module, pools) == 603
    assert walk(space, module, pools, reaches=pools) == 603


def test_naming_registers(space, module):
    pools = chain(space, [3, 600], plain=True)
    assert walk(space, module, pools, reaches=pools) == 603
    assert pools[1] in space.memory.registry


@pytest.mark.parametrize(
    ("reaches", "words"),
    [
        (np.zeros(3), "reaches= of walk is a list of arrays, not ndarray"),
        ([3], r"reaches\[0\] of walk: a numpy array is needed, not int"),
        ([np.array([object()])], r"reaches\[0\] of walk: .* holds Python objects"),
        (
            [hmm.Out(np.frombuffer(b"12345678"))],
            r"reaches\[0\] of walk: .* is read-only; name it hmm.In\(array\)",
        ),
    ],
)
def test_what_cannot_be_named(space, module, reaches, words):
    pools = chain(space, [3])
    with pytest.raises(hmm.ArgumentError, match=words):
        walk(space, module, pools, reaches=reaches)
    assert walk(space, module, pools) == 3


def test_options(monkeypatch):
    with pytest.raises(hmm.ArgumentError, match=r"Policy\.reaches is 'named' or 'registered', not 'all'"):
        hmm.Policy(reaches="all")
    monkeypatch.setenv("HMMEMU_CHECK_REACH", "yes")
    with pytest.raises(hmm.ArgumentError, match="HMMEMU_CHECK_REACH='yes': use 1 or 0"):
        hmm.AddressSpace(device="emulated")
    monkeypatch.setenv("HMMEMU_CHECK_REACH", "1")
    with hmm.AddressSpace(device="emulated") as space:
        assert space.check_reach
    with hmm.AddressSpace(device="emulated", check_reach=False) as space:
        assert not space.check_reach
