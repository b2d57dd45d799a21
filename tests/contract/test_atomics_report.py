"""What an atomics report counts: exactly what ran, by operation of the source and array, in every mode, with many workers."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.atomic_uses import Estimate

SOURCE = r"""
#include <cuda/atomic>
struct Map { unsigned* depth; int* weight; };
__device__ int total;
template <class T> __device__ void bump(T* p) { atomicAdd_system(p, T(1)); }
__device__ int both(int* p, int* q) { return atomicAdd_system(&p[atomicAdd_system(q, 1) & 3], 1) + atomicAdd_system(q, 1); }

extern "C" __global__ void loop(int* x, int* y) { bump(x); both(x, y); }
extern "C" __global__ void other(unsigned* u, int* y) {
  bump(u);
  if (threadIdx.x % 2) bump(y);
  auto less = [&](int* p) { atomicSub(p, 1); };
  less(y);
}
extern "C" __global__ void fission(int* x) {
  __shared__ int here;
  if (threadIdx.x == 0) here = 0;
  __syncthreads();
  for (int i = 0; i < 3; ++i) { atomicAdd(&here, 1); __syncthreads(); }
  if (threadIdx.x == 0) atomicAdd_system(x, here);
}
extern "C" __global__ void fiber(int* x) {
  __shared__ int here[2];
  atomicExch_block(&here[threadIdx.x % 2], 1);
  const int n = __popc(__ballot_sync(~0u, threadIdx.x % 3 == 0));
  if (threadIdx.x % 32 == 0) atomicAdd_system(x, n), atomicMax(x + 1024, n);
}
extern "C" __global__ void refs(int* x, cuda::atomic<int>* flags) {
  cuda::atomic_ref<int, cuda::thread_scope_system> r(*x);
  r += ++flags[1];
  r++;
  (&r)->fetch_sub(1); flags->compare_exchange_strong(*new int(5), 7);
}
__device__ float atomicMax(float* p, float v) { return __int_as_float(::atomicMax((int*)p, __float_as_int(v))); }
extern "C" __global__ void forms(int* x, float* f) {
  (atomicAdd)(x, 1), cuda::atomic_ref(x[1]).fetch_add(2), ++cuda::atomic_ref<int>{x[2]};
  atomicMax(f, 2.0f);
  ::atomicMax(x + 3, 4);
}
extern "C" __global__ void inside(Map map) { atomicMax(map.depth + threadIdx.x, 3u); atomicAdd_system(map.weight, 1); }
extern "C" __global__ void variable() { atomicAdd(&total, 1); }
extern "C" __global__ void most(unsigned* x) { atomicMax_system(x, threadIdx.x); }
""".replace("*new int(5)", "*(x + 2)")
Rows = dict[tuple[str, str, str, str], int]


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, filename="atomics_report.cu")


def counts(report: hmm.AtomicsReport) -> list[tuple[str, str, str, str, int]]:
    return [(use.kernel, use.call, use.type, use.array, use.count) for use in report.uses]


def test_every_operation_by_kernel_and_array(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    """Two in one line, one within another's arguments, in functions of two kernels, templates and lambdas."""
    x, y, u = (page_by_page.zeros(1024, dtype) for dtype in (np.int32, np.int32, np.uint32))
    with page_by_page.atomics_report() as report:
        module.get_function("loop")((40,), (50,), (x, y))
        module.get_function("other")((7,), (10,), (u, y))
    add = "atomicAdd_system"
    assert counts(report) == [
        ("loop", add, "int", "x", 2000),
        ("loop", add, "int", "x", 2000), ("loop", add, "int", "y", 2000), ("loop", add, "int", "y", 2000),
        ("other", add, "unsigned int", "u", 70), ("other", add, "int", "y", 35), ("other", "atomicSub", "int", "y", 70),
    ]  # fmt: skip
    assert x.sum() == 4000 and y[0] == 4000 + 35 - 70 and u[0] == 70
    assert len({(use.file, use.line) for use in report.uses if use.kernel == "loop"}) == 2
    assert all(use.foreseen and use.file == "atomics_report.cu" for use in report.uses) and report.lost == 0
    assert [use.ways for use in report.uses[:3]] == [{"native": 2000}] * 3


@pytest.mark.parametrize(
    ("name", "grid", "expected"),
    [
        ("fission", 30, [("atomicAdd", "here (__shared__)", 30 * 64 * 3), ("atomicAdd_system", "x", 30)]),
        (
            "fiber",
            20,
            [
                ("atomicExch_block", "here (__shared__)", 20 * 64),
                ("atomicAdd_system", "x", 40),
                ("atomicMax", "x", 40),
            ],
        ),
    ],
)
def test_every_mode(
    page_by_page: hmm.AddressSpace,
    module: hmm.RawModule,
    name: str,
    grid: int,
    expected: list[tuple[str, str, int]],
) -> None:
    x = page_by_page.full(2048, 1, np.int32)  # the CPU's: a page that nobody has would not have to move
    kernel = module.get_function(name)
    with page_by_page.atomics_report() as report:
        assert kernel.attributes["mode"] == name
        for _ in range(3):
            kernel((grid,), (64,), (x,))
    assert [(use.call, use.array, use.count) for use in report.uses] == [
        (c, a, 3 * n) for c, a, n in expected
    ]
    assert report.uses[0].ways == {"local": 3 * expected[0][2]} and report.uses[0].route is hmm.Route.LOCAL
    assert report.uses[1].ways == {"native": 3 * expected[1][2]}
    if name == "fiber":
        ways = report.uses[2].ways
        assert (
            report.uses[2].route is hmm.Route.DEVICE
            and 1 <= ways["moved"] <= 40
            and sum(ways.values()) == 120
        )


def test_libcu(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x, flags = page_by_page.zeros(1024, np.int32), page_by_page.zeros(1024, np.int32)
    with page_by_page.atomics_report() as report:
        module.get_function("refs")((3,), (4,), (x, flags))
    assert counts(report) == [
        ("refs", "+=", "int", "x", 12), ("refs", "++", "int", "flags", 12), ("refs", "++", "int", "x", 12),
        ("refs", "fetch_sub", "int", "x", 12), ("refs", "compare_exchange_strong", "int", "flags", 12),
    ]  # fmt: skip
    assert flags[1] == 12 and x[0] == sum(range(1, 13))
    assert all(use.ways == {"native": 12} for use in report.uses)


def test_forms_of_calls(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    """In parentheses, on temporaries, and CUDA's own function beside an overload of the user's."""
    x, f = page_by_page.zeros(1024, np.int32), page_by_page.zeros(1024, np.float32)
    with page_by_page.atomics_report() as report:
        module.get_function("forms")((3,), (4,), (x, f))
    assert sorted(counts(report)) == [
        ("forms", call, "int", array, 12)
        for call, array in (
            ("++", "x"),
            ("atomicAdd", "x"),
            ("atomicMax", "f"),
            ("atomicMax", "x"),
            ("fetch_add", "x"),
        )
    ]
    assert list(x[:4]) == [12, 24, 12, 4] and f[0] == 2


def test_memory_that_is_no_argument(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    depth, weight = page_by_page.zeros(1024, np.uint32), page_by_page.zeros(1024, np.int32)
    both = np.array((depth.ctypes.data, weight.ctypes.data), "u8, u8")
    with page_by_page.atomics_report() as report:
        module.get_function("inside")((2,), (8,), (both[()],))
        module.get_function("variable")((2,), (8,))
    first, second, third = report.uses
    assert first.array.endswith(f"at {depth.ctypes.data:#x}") and second.array.endswith(
        f"at {weight.ctypes.data:#x}"
    )
    assert (third.array, third.route) == ("total (__device__)", hmm.Route.LOCAL)
    assert first.foreseen and second.foreseen and third.foreseen
    assert [use.count for use in report.uses] == [16] * 3
    total = module.get_global("total").view(np.int32)
    assert total[0] >= 16
    before = int(total[0])
    module.get_function("variable")((1,), (1,))  # the module that does not count has the same variables
    assert total[0] == before + 1


@pytest.mark.parametrize("fallback", ["migrate", "exclusive", "cas-loop", "silent", "fault"])
def test_operations_that_the_link_lacks(module: hmm.RawModule, fallback: str) -> None:
    with hmm.AddressSpace(timeout=60, fallback=fallback, policy=hmm.Policy(grow=False), workers=1) as space:
        x = space.full(1024, 5, np.uint32)
        with space.atomics_report() as report:
            if fallback == "fault":
                with pytest.raises(hmm.KernelError, match="atomic max"):
                    module.get_function("most")((1,), (32,), (x,))
            else:
                for _ in range(2):
                    x[0] = 5  # the page is the CPU's again
                    module.get_function("most")((1,), (32,), (x,))
                    assert x[0] == (5 if fallback == "silent" else 31)
        (use,) = report.uses
        moved, taken = {"there": 62, "moved": 2}, {"there": 62, "exclusive": 2}
        ways = {
            "migrate": moved,
            "exclusive": taken,
            "cas-loop": {"cas-loop": 64},
            "silent": {"lost": 64},
            "fault": {"fault": 1},
        }
        assert use.ways == ways[fallback]
        assert use.count == (1 if fallback == "fault" else 64) and use.route.value == fallback
        assert (
            use.route_on("nvlink") is hmm.Route.NATIVE
            and use.estimate("nvlink").seconds == use.count * 434e-9
        )
        slow = hmm.Link("slow", 4096.0, 0.5, 3.0, space.link.atomics)
        costs = {
            "migrate": (2, 2 * (3.0 + 1.0)),
            "exclusive": (2, 2 * 3.0 + 64 * 0.5),
            "cas-loop": (0, 2 * 64 * 0.5),
        }
        assert use.estimate(slow) == Estimate(*costs.get(fallback, (None, None)))


def test_exclusive_where_the_page_cannot_stay(module: hmm.RawModule) -> None:
    """Memory that the device cannot map moves: the report says which of the two it was."""
    memory = mmap.mmap(-1, 4096)  # MAP_SHARED
    with hmm.AddressSpace(
        timeout=60, fallback="exclusive", policy=hmm.Policy(grow=False), workers=1
    ) as space:
        x = np.frombuffer(memory, np.uint32)
        with space.atomics_report() as report:
            for _ in range(2):
                x[0] = 5
                module.get_function("most")((1,), (32,), (x,))
                assert x[0] == 31
        stayed = space.stats().processors[1].exclusive_pages
        assert stayed in (0, 2)
        assert report.uses[0].ways == {"there": 62, "exclusive" if stayed else "moved": 2}


def test_two_devices_are_added_up(two_devices: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = two_devices.zeros(1024, np.uint32)
    with two_devices.atomics_report() as report:
        for device in two_devices.devices:
            with device:
                module.get_function("most")((2,), (32,), (x,))
    assert counts(report) == [("most", "atomicMax_system", "unsigned int", "x", 128)]


def test_nothing_is_counted_without_a_report(page_by_page: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = page_by_page.zeros(1024, np.uint32)
    process = page_by_page.devices[0].process
    module.get_function("most")((1,), (32,), (x,))
    assert process.atomic_counts() == (b"", 0)
    with page_by_page.atomics_report() as report:
        pass
    assert report.uses == [] and process.atomic_counts() == (b"", 0)
    assert b"at_site" not in module.compiled.path.read_bytes()
    with page_by_page.atomics_report() as report:
        module.get_function("most")((1,), (32,), (x,))
    with page_by_page.atomics_report() as second:
        module.get_function("most")((2,), (8,), (x,))
    assert [use.count for use in (*report.uses, *second.uses)] == [32, 16]


def test_more_kinds_of_operations_than_there_are_counters(page_by_page: hmm.AddressSpace) -> None:
    sites, arrays, room = 80, 32, 2048  # HMM_ATOMIC_COUNTS a worker
    names = [f"a{i}" for i in range(arrays)]
    adds = "atomicAdd(all[i], 1); " * sites
    code = f"""extern "C" __global__ void many({", ".join(f"int* {name}" for name in names)}) {{
      int* all[] = {{{", ".join(names)}}};
      for (int i = 0; i < {arrays}; ++i) {{ {adds} }} }}"""
    x = page_by_page.zeros((arrays, 4), np.int32)
    with page_by_page.atomics_report() as report:
        hmm.RawKernel(code, "many")((1,), (1,), tuple(x))
    assert (x[:, 0] == sites).all()
    assert sum(use.count for use in report.uses) == room and report.lost == sites * arrays - room


def test_mistakes(page_by_page: hmm.AddressSpace) -> None:
    with page_by_page.atomics_report() as report:
        with pytest.raises(hmm.ArgumentError, match="when its `with` block has ended"):
            report.uses  # noqa: B018
        with (
            pytest.raises(hmm.ArgumentError, match="already: end its `with` first"),
            page_by_page.atomics_report(),
        ):
            pass
    with pytest.raises(hmm.ArgumentError, match="ask the space for another"), report:
        pass
    with pytest.raises(ValueError, match="of the body"), page_by_page.atomics_report() as report:
        raise ValueError("of the body")
    assert report.uses == []
