"""One space with a GPU (the stand-in) and an emulated device: pages go between them and the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu import choices

SOURCE = r"""
__device__ int launches;
extern "C" __global__ void add(int* x, const int* y, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] += y[i];
  if (blockIdx.x == 0 && threadIdx.x == 0) launches += 1;
}
extern "C" __global__ void count(int* x, int times) { for (int i = 0; i < times; ++i) atomicAdd_system(x, 1); }
extern "C" __global__ void check(const int* x, int value) {
  if (threadIdx.x == 0 && blockIdx.x == 0) printf("saw %d\n", x[0]);
  assert(x[0] == value);
}
"""


@pytest.fixture(params=["cuda:0,emulated", "emulated,cuda"])
def mixed(gpu, request):
    return gpu("delay_us=100,kernel_us=2000", device=request.param.split(","))


@pytest.fixture
def module():
    return hmm.RawModule(SOURCE, filename="mixed.cu")


def add(module, device, x, y, **options):
    module.get_function("add")((4,), (64,), (x, y, np.int32(x.size)), device=device, **options)


def holders(space, array):
    """Who holds all pages of an array, the CPU first."""
    codes = set(space.residency(array))
    assert len(codes) == 1
    return codes.pop()


def test_what_the_devices_are(mixed):
    assert sorted(device.kind for device in mixed.devices) == ["cuda", "emulated"]
    assert [device.index for device in mixed.devices] == [0, 1]
    names = {"CPU", *(device.name for device in mixed.devices)}
    assert len(names) == 3 and str(mixed.stats())


def test_one_writes_and_all_read(mixed, module):
    x, y = mixed.zeros(5000, np.int32), mixed.ones(5000, np.int32)
    for turn in range(6):
        add(module, mixed.devices[turn % 2], x, y)
        assert turn % 3 < 2 or (x == turn + 1).all()
    assert (y == 1).all() and holders(mixed, y) == "SSS"  # read by both devices and the CPU
    assert (x == 6).all()


def test_a_page_goes_from_device_to_device(mixed, module):
    x, y = mixed.zeros(5000, np.int32), mixed.ones(5000, np.int32)
    first, second = mixed.devices
    add(module, first, x, y)
    assert holders(mixed, x) == "-X-"
    add(module, second, x, y)
    assert holders(mixed, x) == "--X"
    add(module, second, mixed.zeros(5000, np.int32), x)  # only read by the second
    assert (x == 2).all()


def test_streams_of_both_at_once(mixed, module):
    """Each device adds to its own half; halves share a page in the middle."""
    x, y, stream = mixed.zeros(3001, np.int32), mixed.ones(3001, np.int32), hmm.Stream()
    for _ in range(10):
        for device, half in zip(mixed.devices, (slice(0, 1500), slice(1500, 3001)), strict=True):
            add(module, device, x[half], y[half], stream=stream)
    stream.synchronize(60)
    assert (x == 10).all()


def test_atomics_of_the_emulated_device_and_of_the_cpu(mixed, module):
    counter = mixed.zeros(1, np.int32)
    emulated = next(device for device in mixed.devices if device.kind == "emulated")
    cuda = next(device for device in mixed.devices if device.kind == "cuda")
    stream = hmm.Stream()
    for _ in range(3):
        module.get_function("count")((2,), (1,), (counter, np.int32(1000)), device=emulated, stream=stream)
        for _ in range(1000):
            hmm.atomic_add(counter, 0, 1)
        stream.synchronize(60)
        module.get_function("count")(
            (1,), (1,), (counter, np.int32(500)), device=cuda
        )  # alone, with its own atomics
    assert counter[0] == 3 * 3500


def test_variables_belong_to_a_device(mixed, module):
    x, y = mixed.zeros(10, np.int32), mixed.ones(10, np.int32)
    for device, times in zip(mixed.devices, (3, 1), strict=True):
        for _ in range(times):
            add(module, device, x, y)
    found = []
    for device in mixed.devices:
        with device:
            found.append(int(module.get_global("launches").view(np.int32)[0]))
    assert found == [3, 1]


@pytest.mark.parametrize("index", [0, 1])
def test_one_fails_and_the_other_goes_on(mixed, module, index, capsys):
    x, y = mixed.zeros(5000, np.int32), mixed.ones(5000, np.int32)
    for device in mixed.devices:
        add(module, device, x, y)
    with pytest.raises(
        hmm.KernelAssertion, match=r"mixed.cu:\d+: check: .* Assertion `x\[0\] == value` failed"
    ):
        module.get_function("check")((1,), (1,), (x, np.int32(5)), device=mixed.devices[index])
    for device in mixed.devices:
        module.get_function("check")((1,), (1,), (x, np.int32(2)), device=device)
        add(module, device, y, x)
    assert capsys.readouterr().out == "saw 2\n" * 3
    assert (x == 2).all() and (y == 5).all()


def test_eviction_from_both(gpu, module):
    space = gpu("bytes=67108864", device="cuda,emulated", device_memory=4 << 20)
    arrays, y = [space.zeros(1 << 18, np.int32) for _ in range(8)], space.ones(1 << 18, np.int32)
    for turn in range(4):
        for number, x in enumerate(arrays):
            add(module, space.devices[(turn + number) % 2], x, y)
    assert all((x == 4).all() for x in arrays)


def test_names_by_the_environment(gpu, monkeypatch):
    monkeypatch.setenv("HMMEMU_DEVICE", "emulated, cuda:0")
    assert [device.kind for device in gpu(device="auto").devices] == ["emulated", "cuda"]


@pytest.mark.parametrize(
    ("device", "count", "words"),
    [
        ("emulated,auto", 1, "'auto' stands alone"),
        (["emulated", "emulated"], 2, "name a kind and say how many, or name 1 to 15 devices"),
        (["emulated"] * 16, 1, "name 1 to 15 devices"),
        ([], 1, "name 1 to 15 devices"),
        ("emulated,gpu", 1, "device='gpu': use 'auto', 'emulated' or 'cuda'"),
        ("emulated", 16, "devices=16: an address space has 1 to 15"),
    ],
)
def test_what_cannot_be_meant(device, count, words):
    with pytest.raises(hmm.ArgumentError, match=words):
        choices.choose_devices(device, count)
