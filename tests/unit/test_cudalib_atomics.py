"""Atomic functions: return values and wrap rules exactly as CUDA's, and nothing lost between real threads."""

from __future__ import annotations

import ctypes
import platform
import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cudalib import assembly, build

TYPES = {
    "int": np.int32, "unsigned int": np.uint32, "long long": np.int64, "unsigned long long": np.uint64,
    "float": np.float32, "double": np.float64, "unsigned short": np.uint16,
}  # fmt: skip
SHORT = {
    "int": "i",
    "unsigned int": "u",
    "long long": "I",
    "unsigned long long": "U",
    "float": "f",
    "double": "d",
    "unsigned short": "s",
}
ALL = ("int", "unsigned int", "long long", "unsigned long long")
# Operation: (types that CUDA has it for, new value from old and operand)
OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[[int, int], int]]] = {
    "Add": (("int", "unsigned int", "unsigned long long", "float", "double"), lambda old, v: old + v),
    "Sub": (("int", "unsigned int"), lambda old, v: old - v),
    "Exch": (("int", "unsigned int", "unsigned long long", "float"), lambda old, v: v),
    "Min": (ALL, min),
    "Max": (ALL, max),
    "Inc": (("unsigned int",), lambda old, v: 0 if old >= v else old + 1),
    "Dec": (("unsigned int",), lambda old, v: v if old == 0 or old > v else old - 1),
    "And": (ALL, lambda old, v: old & v),
    "Or": (ALL, lambda old, v: old | v),
    "Xor": (ALL, lambda old, v: old ^ v),
}
CAS_TYPES = ("int", "unsigned int", "unsigned long long", "unsigned short")
SCOPES = ("", "_block", "_system")
CAS_CASES = [(kind, scope) for kind in CAS_TYPES for scope in SCOPES if kind != "unsigned short" or not scope]
CASES = [(name, kind, scope) for name, (kinds, _) in OPERATIONS.items() for kind in kinds for scope in SCOPES]


def expressions() -> dict[str, tuple[str, list[str], str]]:
    """Every overload as CUDA code, for test_nvrtc.py."""
    made = {
        f"{name}{scope}_{SHORT[kind]}": (f"atomic{name}{scope}(&target, a)", [kind], kind)
        for name, kind, scope in CASES
    }
    made |= {
        f"CAS{scope}_{SHORT[kind]}": (f"atomicCAS{scope}(&target, a, b)", [kind, kind], kind)
        for kind, scope in CAS_CASES
    }
    return made


VECTORS = {"float2": 2, "float4": 4}
WIDE = ("ulonglong2", "float4", "int4", "unsigned __int128", "double2")


def wide_name(kind: str) -> str:
    return kind.replace(" ", "_")


def expressions_90() -> dict[str, tuple[str, list[str], str]]:
    """What needs compute capability 9, for test_nvrtc.py."""
    made = {}
    for scope in SCOPES:
        made |= {f"Add{scope}_{v}": (f"atomicAdd{scope}(&target, a)", [v], v) for v in VECTORS}
        for kind in WIDE:
            name = wide_name(kind)
            made[f"Exch{scope}_{name}"] = (f"atomicExch{scope}(&target, a)", [kind], kind)
            made[f"CAS{scope}_{name}"] = (f"atomicCAS{scope}(&target, a, b)", [kind, kind], kind)
    return made


HAMMER = """
extern "C" void hammer_add(int* i, unsigned* u, unsigned long long* ull, float* f, double* d, long n) {
  for (long k = 0; k < n; ++k) {
    atomicAdd(i, 1), atomicAdd(u, 3u), atomicAdd(ull, 5ull), atomicAdd(f, 1.0f), atomicAdd(d, 0.5);
  }
}
extern "C" void hammer_cas(int* value, long n) {
  for (long k = 0; k < n; ++k) {
    int old = *(volatile int*)value, seen;
    while ((seen = atomicCAS(value, old, old + 1)) != old) old = seen;
  }
}
extern "C" void hammer_inc(unsigned* value, unsigned limit, unsigned* histogram, long n) {
  for (long k = 0; k < n; ++k) ++histogram[atomicInc(value, limit)];
}
extern "C" void hammer_exch(int* slot, unsigned char* seen, int first, int n) {  // a token is never lost or doubled
  for (int k = first; k < first + n; ++k) { int old = atomicExch(slot, k); if (old >= 0) ++seen[old]; }
}
extern "C" void hammer_max(long long* greatest, unsigned long long* bits, long seed, long n) {
  for (long k = 0; k < n; ++k) {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff;
    atomicMax(greatest, (long long)seed), atomicOr(bits, 1ull << (seed >> 8 & 63));
  }
}
extern "C" void hammer_wide(ulonglong2* pair, long n) {  // both halves move together, or the pair is torn
  for (long k = 0; k < n; ++k) {
    ulonglong2 old = *pair, seen;
    for (;;) {
      seen = atomicCAS(pair, old, ulonglong2{old.x + 1, old.y + 3});
      if (seen.x == old.x && seen.y == old.y) break;
      old = seen;
    }
  }
}
extern "C" long hammer_wide_exch(ulonglong2* pair, unsigned long long first, long n) {  // how many pairs were torn
  long torn = 0;
  for (unsigned long long k = first; k < first + n; ++k) {
    ulonglong2 old = atomicExch(pair, ulonglong2{k, ~k});
    torn += old.y != ~old.x;
  }
  return torn;
}
extern "C" long hammer_wide_read(ulonglong2* pair, long n) {  // a compare-and-swap that fails reads it whole
  long torn = 0;
  for (long k = 0; k < n; ++k) {
    ulonglong2 old = atomicCAS(pair, ulonglong2{1, 1}, ulonglong2{2, 2});
    torn += old.y != ~old.x;
  }
  return torn;
}
extern "C" void hammer_vectors(float2* two, float4* four, long n) {
  for (long k = 0; k < n; ++k) atomicAdd(two, float2{1, 2}), atomicAdd_system(four, float4{1, 2, 3, 4});
}
"""


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    text = HAMMER
    for name, kind, scope in CASES:
        text += f'extern "C" void {name}{scope}_{SHORT[kind]}({kind}* p, const {kind}* v, {kind}* old) {{ *old = atomic{name}{scope}(p, *v); }}\n'
    for kind, scope in CAS_CASES:
        text += f'extern "C" void CAS{scope}_{SHORT[kind]}({kind}* p, const {kind}* v, {kind}* old) {{ *old = atomicCAS{scope}(p, v[0], v[1]); }}\n'
    for scope in SCOPES:
        for v in VECTORS:
            text += f'extern "C" void Add{scope}_{v}({v}* p, const {v}* v, {v}* old) {{ *old = atomicAdd{scope}(p, *v); }}\n'
        for kind in WIDE:
            name = wide_name(kind)
            text += f'extern "C" void Exch{scope}_{name}({kind}* p, const {kind}* v, {kind}* old) {{ *old = atomicExch{scope}(p, *v); }}\n'
            text += f'extern "C" void CAS{scope}_{name}({kind}* p, const {kind}* v, {kind}* old) {{ *old = atomicCAS{scope}(p, v[0], v[1]); }}\n'
    return build(text)


def aligned(words: int) -> np.ndarray:
    """Zeroed 64-bit words, the first of them on a 16-byte boundary."""
    block = np.zeros(words + 1, np.uint64)
    skip = block.ctypes.data % 16 // 8
    return block[skip : skip + words]


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def values_of(kind: str) -> list[int | float]:
    dtype = TYPES[kind]
    if np.issubdtype(dtype, np.floating):
        return [0.0, 1.5, -2.25, 1e6]
    limits = np.iinfo(dtype)
    return sorted(
        {limits.min, limits.min + 1, 0, 1, 2, 5, 7, limits.max - 1, limits.max}
        | ({-1, -5} if limits.min else set())
    )


@pytest.fixture(params=["global", "shared"])
def memory(request: pytest.FixtureRequest, library: ctypes.CDLL) -> Iterator[np.ndarray]:
    """24 bytes in global memory, or in the worker's shared memory, where no locked instruction is used."""
    block = np.zeros(3)
    library.mock_shared(pointer(block) if request.param == "shared" else None)
    yield block
    library.mock_shared(None)


@pytest.mark.parametrize(("name", "kind", "scope"), CASES)
def test_result_and_effect(
    library: ctypes.CDLL, memory: np.ndarray, name: str, kind: str, scope: str
) -> None:
    dtype, apply = TYPES[kind], OPERATIONS[name][1]
    memory = memory.view(dtype)[:3]
    for before in values_of(kind):
        for value in values_of(kind):
            memory[:] = [77, before, 77]  # neighbours stay as they are
            operand, old = np.array([value], dtype), np.zeros(1, dtype)
            getattr(library, f"{name}{scope}_{SHORT[kind]}")(
                pointer(memory[1:]), pointer(operand), pointer(old)
            )
            wanted = apply(before, value)
            if isinstance(wanted, int) and not np.issubdtype(dtype, np.floating):
                bits = 8 * np.dtype(dtype).itemsize
                wanted_array = np.array([wanted & ((1 << bits) - 1)], f"u{bits // 8}").view(dtype)
            else:
                wanted_array = np.array([wanted], dtype)
            assert old[0] == dtype(before), (before, value)
            assert memory[1] == wanted_array[0], (before, value)
            assert memory[0] == 77 and memory[2] == 77


@pytest.mark.parametrize(("kind", "scope"), CAS_CASES)
def test_compare_and_swap(library: ctypes.CDLL, memory: np.ndarray, kind: str, scope: str) -> None:
    dtype = TYPES[kind]
    memory = memory.view(dtype)[:3]
    for before, compare, value in [
        (5, 5, 9),
        (5, 6, 9),
        (0, 0, 0),
        (int(np.iinfo(dtype).max), int(np.iinfo(dtype).max), 1),
    ]:
        memory[:], old = [3, before, 4], np.zeros(1, dtype)
        getattr(library, f"CAS{scope}_{SHORT[kind]}")(
            pointer(memory[1:]), pointer(np.array([compare, value], dtype)), pointer(old)
        )
        assert old[0] == before and memory.tolist() == [3, value if before == compare else before, 4]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", WIDE)
def test_128_bits(library: ctypes.CDLL, kind: str, scope: str, shared: bool) -> None:
    memory = aligned(6)
    library.mock_shared(pointer(memory) if shared else None)
    target, old = memory[2:4], aligned(2)
    memory[:] = [7, 7, 1 << 63 | 5, 6, 7, 7]
    operands = aligned(4)
    operands[:] = [10, 11, 12, 13]
    getattr(library, f"Exch{scope}_{wide_name(kind)}")(pointer(target), pointer(operands), pointer(old))
    assert old.tolist() == [1 << 63 | 5, 6] and memory.tolist() == [7, 7, 10, 11, 7, 7]
    swap = getattr(library, f"CAS{scope}_{wide_name(kind)}")
    swap(pointer(target), pointer(operands), pointer(old))
    assert old.tolist() == [10, 11] and memory.tolist() == [7, 7, 12, 13, 7, 7]
    for wrong in ([12, 14], [14, 13]):  # one half is as expected
        operands[:] = [*wrong, 1, 2]
        swap(pointer(target), pointer(operands), pointer(old))
        assert old.tolist() == [12, 13] and memory.tolist() == [7, 7, 12, 13, 7, 7]
    library.mock_shared(None)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", VECTORS)
def test_vectors(library: ctypes.CDLL, kind: str, scope: str, shared: bool) -> None:
    lanes, memory = VECTORS[kind], aligned(6).view(np.float32)
    library.mock_shared(pointer(memory) if shared else None)
    memory[:] = 0.5
    operand, old = aligned(2).view(np.float32), aligned(2).view(np.float32)
    operand[:] = [1, -2, 4, 1e6]
    getattr(library, f"Add{scope}_{kind}")(pointer(memory[4:]), pointer(operand), pointer(old))
    expected = np.full(12, 0.5, np.float32)
    expected[4 : 4 + lanes] += operand[:lanes]
    assert np.array_equal(memory, expected) and (old[:lanes] == 0.5).all()
    library.mock_shared(None)


def together(count: int, body: Callable[[int], None]) -> None:
    """Runs body(0) ... body(count - 1) at the same time; ctypes lets go of the GIL."""
    start = threading.Barrier(count)

    def run(i: int) -> None:
        start.wait()
        body(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_sums_between_threads(library: ctypes.CDLL) -> None:
    i, u, ull = np.zeros(1, np.int32), np.zeros(1, np.uint32), np.zeros(1, np.uint64)
    f, d = np.zeros(1, np.float32), np.zeros(1, np.float64)
    together(4, lambda _: library.hammer_add(*map(pointer, (i, u, ull, f, d)), ctypes.c_long(50_000)))
    assert (i[0], u[0], ull[0], f[0], d[0]) == (200_000, 600_000, 1_000_000, 200_000.0, 100_000.0)


def test_compare_and_swap_between_threads(library: ctypes.CDLL) -> None:
    value = np.zeros(1, np.int32)
    together(4, lambda _: library.hammer_cas(pointer(value), ctypes.c_long(50_000)))
    assert value[0] == 200_000


def test_128_bits_between_threads(library: ctypes.CDLL) -> None:
    pair, n = aligned(2), ctypes.c_long(20_000)
    together(4, lambda _: library.hammer_wide(pointer(pair), n))
    assert pair.tolist() == [80_000, 240_000]
    library.hammer_wide_exch.restype = library.hammer_wide_read.restype = ctypes.c_long
    pair[:] = [0, ~np.uint64(0)]
    torn = [0] * 4

    def body(i: int) -> None:
        first = ctypes.c_ulonglong(1000 + i * 20_000)
        torn[i] = (
            library.hammer_wide_read(pointer(pair), n)
            if i % 2
            else library.hammer_wide_exch(pointer(pair), first, n)
        )

    together(4, body)
    assert torn == [0] * 4 and pair[1] == ~pair[0]


def test_vectors_between_threads(library: ctypes.CDLL) -> None:
    memory = aligned(4).view(np.float32)
    together(4, lambda _: library.hammer_vectors(pointer(memory), pointer(memory[4:]), ctypes.c_long(10_000)))
    assert memory.tolist() == [40_000, 80_000, 0, 0, 40_000, 80_000, 120_000, 160_000]


def test_inc_wraps_between_threads(library: ctypes.CDLL) -> None:
    value, limit = np.zeros(1, np.uint32), 9
    histograms = np.zeros((4, limit + 1), np.uint32)
    together(
        4, lambda i: library.hammer_inc(pointer(value), limit, pointer(histograms[i]), ctypes.c_long(50_000))
    )
    assert histograms.sum(axis=0).tolist() == [20_000] * 10 and value[0] == 0


def test_exchange_between_threads(library: ctypes.CDLL) -> None:
    each = 50_000
    slot, seen = np.array([-1], np.int32), np.zeros(4 * each, np.uint8)
    together(4, lambda i: library.hammer_exch(pointer(slot), pointer(seen), i * each, each))
    seen[slot[0]] += 1
    assert (seen == 1).all()


def test_max_and_or_between_threads(library: ctypes.CDLL) -> None:
    greatest, bits = np.array([-1], np.int64), np.zeros(1, np.uint64)
    together(
        4,
        lambda i: library.hammer_max(
            pointer(greatest), pointer(bits), ctypes.c_long(i), ctypes.c_long(20_000)
        ),
    )
    alone, alone_bits = np.array([-1], np.int64), np.zeros(1, np.uint64)
    for i in range(4):
        library.hammer_max(pointer(alone), pointer(alone_bits), ctypes.c_long(i), ctypes.c_long(20_000))
    assert greatest[0] == alone[0] and bits[0] == alone_bits[0]


def test_native_operations_are_one_instruction() -> None:
    """A locked add for integers, no lock for block scope: what the kernels' speed rests on."""
    if platform.machine() != "x86_64":
        pytest.skip("looks for x86-64 instructions")
    source = 'extern "C" void shared_(int* p) { atomicAdd(p, 3); }\nextern "C" void own(int* p) { atomicAdd_block(p, 3); }\n'
    text = assembly(source)
    shared_, own = (
        re.search(rf"^{name}:.*?\.cfi_endproc", text, re.M | re.S)[0] for name in ("shared_", "own")
    )
    assert "lock" in shared_ and "cmpxchg" not in shared_
    assert "lock" not in own
