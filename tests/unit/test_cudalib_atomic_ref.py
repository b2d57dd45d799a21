"""<cuda/atomic>: every method of cuda::atomic_ref and cuda::atomic beside NumPy; threads; kernels that wait for flags."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable

import numpy as np
import pytest
from cudalib import build
from test_cudalib_atomics import aligned, pointer, together

import hmmemu as hmm

SCOPES = ("system", "device", "block", "thread")
INTEGERS = {
    "signed char": np.int8, "unsigned char": np.uint8, "short": np.int16, "unsigned short": np.uint16, "int": np.int32,
    "unsigned": np.uint32, "long": np.int64, "long long": np.int64, "unsigned long long": np.uint64,
}  # fmt: skip
FLOATS = {"float": np.float32, "double": np.float64}
FETCH: dict[str, Callable[[object, object], object]] = {
    "fetch_add": operator.add, "fetch_sub": operator.sub, "fetch_and": operator.and_, "fetch_or": operator.or_,
    "fetch_xor": operator.xor, "fetch_min": min, "fetch_max": max, "exchange": lambda old, value: value,
}  # fmt: skip
ASSIGN = {"+=": operator.add, "-=": operator.sub, "&=": operator.and_, "|=": operator.or_, "^=": operator.xor}
CASES = [(kind, method, scope) for scope in SCOPES for kind in (*INTEGERS, *FLOATS) for method in FETCH
         if kind in INTEGERS or method in ("fetch_add", "fetch_sub", "fetch_min", "fetch_max", "exchange")]  # fmt: skip

HEAD = "#include <cuda/atomic>\nenum class Colour : unsigned short { red, green };\nstruct Pair { float a; int b; };\n"
MORE = """
extern "C" int conversions(int* x) {
  cuda::atomic_ref<int> r(*x);
  static_assert(decltype(r)::is_always_lock_free && decltype(r)::required_alignment == 4, "");
  int sum = r;                         // 5
  r = 7, sum += r.load(cuda::memory_order_acquire), r.store(9, cuda::std::memory_order_release);  // 12
  sum += 100 * (r++) + 1000 * (++r) + 10000 * (r--);   // 912 + 11000 + 110000
  auto copy = r;
  return sum + (--copy) * 1000000 + r.is_lock_free();
}
extern "C" int swaps(int* x, int wanted, int value) {  // 1: done; otherwise what was there
  int expected = wanted;
  return cuda::atomic_ref<int>(*x).compare_exchange_strong(expected, value) ? 1 : expected;
}
extern "C" int other_types(void) {
  Colour colour = Colour::red; bool flag = false; Pair pair{1, 2}; float f = -0.0f; ulonglong2 wide{1, 2}; int* p = nullptr;
  bool fine = cuda::atomic_ref<Colour>(colour).exchange(Colour::green) == Colour::red && colour == Colour::green;
  fine &= !cuda::atomic_ref<bool>(flag).exchange(true) && flag;
  alignas(8) Pair at = pair;
  Pair next{3, 4};
  fine &= cuda::atomic_ref<Pair>(at).compare_exchange_weak(pair, next, cuda::memory_order_acq_rel, cuda::memory_order_relaxed);
  fine &= at.a == 3 && at.b == 4;
  float zero = 0.0f;                   // bits are compared: -0 is not 0
  fine &= !cuda::atomic_ref<float>(f).compare_exchange_strong(zero, 1.0f) && __float_as_uint(zero) == 0x80000000u;
  cuda::atomic_ref<ulonglong2> w(wide);
  w.store(ulonglong2{5, 6});
  fine &= w.load().x == 5 && wide.y == 6 && w.exchange(ulonglong2{7, 8}).y == 6 && wide.x == 7;
  cuda::atomic<int*> pointer(nullptr);
  fine &= pointer.exchange((int*)&f) == p && pointer.load() == (int*)&f;
  cuda::std::atomic<unsigned> count{3};
  count += 4;
  fine &= count == 7 && sizeof(cuda::atomic<char>) == 1 && alignof(cuda::atomic<double>) == 8;
  cuda::atomic_thread_fence(cuda::memory_order_seq_cst, cuda::thread_scope_device);
  return fine;
}
extern "C" void hammer(int* i, double* d, unsigned char* narrow, cuda::atomic<unsigned>* u, long n) {
  cuda::atomic_ref<unsigned char> r(*narrow);
  for (long k = 0; k < n; ++k) {
    cuda::atomic_ref<int>(*i).fetch_add(1, cuda::memory_order_relaxed);
    cuda::atomic_ref<double>(*d) += 0.5;
    ++r, ++*u;
  }
}
extern "C" long message(int* data, int* flag, int writer, int n) {  // how many messages came before their data
  cuda::atomic_ref<int> f(*flag);
  long wrong = 0;
  for (int k = 1; k <= n; ++k) {
    if (writer) {
      while (f.load(cuda::memory_order_acquire) != -k + 1) HMM_PAUSE();
      data[0] = k, data[64] = k;
      f.store(k, cuda::memory_order_release);
    } else {
      while (f.load(cuda::memory_order_acquire) != k) HMM_PAUSE();
      wrong += data[0] != k || data[64] != k;
      f.store(-k, cuda::memory_order_release);
    }
  }
  return wrong;
}
""".replace("HMM_PAUSE()", "sched_yield()")


def name_of(kind: str, method: str, scope: str) -> str:
    return f"{method}_{kind}_{scope}".replace(" ", "_")


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    text = "#include <sched.h>\n" + HEAD
    for kind, method, scope in CASES:
        text += (
            f'extern "C" void {name_of(kind, method, scope)}({kind}* x, {kind}* v, {kind}* old) {{\n'
            f"  *old = cuda::atomic_ref<{kind}, cuda::thread_scope_{scope}>(*x).{method}(*v); }}\n"
        )
    for i, sign in enumerate(ASSIGN):
        text += (
            f'extern "C" int assign{i}(int* x, int v) {{ cuda::atomic_ref<int> r(*x); return r {sign} v; }}\n'
        )
    return build(text + MORE)


def values_of(kind: str) -> list[int | float]:
    if kind in FLOATS:
        return [0.0, 1.5, -2.25]
    limits = np.iinfo(INTEGERS[kind])
    return sorted({limits.min, 0, 1, 5, limits.max})


@pytest.mark.parametrize(("kind", "method", "scope"), CASES)
def test_methods(library: ctypes.CDLL, kind: str, method: str, scope: str) -> None:
    dtype = (INTEGERS | FLOATS)[kind]
    memory, old = aligned(3).view(dtype)[:3], np.zeros(1, dtype)
    for before in values_of(kind):
        for value in values_of(kind):
            memory[:] = [7, before, 7]
            getattr(library, name_of(kind, method, scope))(
                pointer(memory[1:]), pointer(np.array([value], dtype)), pointer(old)
            )
            wanted = FETCH[method](before, value)
            if kind in INTEGERS:
                bits = 8 * memory.itemsize
                wanted = np.array([wanted & ((1 << bits) - 1)], f"u{memory.itemsize}").view(dtype)[0]
            assert (old[0], memory.tolist()) == (dtype(before), [7, dtype(wanted).item(), 7]), (before, value)


@pytest.mark.parametrize(("number", "sign"), list(enumerate(ASSIGN)))
def test_assignments(library: ctypes.CDLL, number: int, sign: str) -> None:
    x = np.array([12], np.int32)
    assert getattr(library, f"assign{number}")(pointer(x), 10) == x[0] == ASSIGN[sign](12, 10)


def test_conversions_and_steps(library: ctypes.CDLL) -> None:
    x = np.array([5], np.int32)
    assert library.conversions(pointer(x)) == 12 + 900 + 11_000 + 110_000 + 9_000_000 + 1 and x[0] == 9


def test_compare_exchange(library: ctypes.CDLL) -> None:
    x = np.array([5], np.int32)
    assert library.swaps(pointer(x), 4, 9) == 5 and x[0] == 5
    assert library.swaps(pointer(x), 5, 9) == 1 and x[0] == 9


def test_other_types(library: ctypes.CDLL) -> None:
    assert library.other_types() == 1


def test_between_threads(library: ctypes.CDLL) -> None:
    i, d = np.zeros(1, np.int32), np.zeros(1)
    narrow, u = np.zeros(8, np.uint8), np.zeros(2, np.uint32)
    together(
        4,
        lambda _: library.hammer(
            pointer(i), pointer(d), pointer(narrow[3:]), pointer(u), ctypes.c_long(25_001)
        ),
    )
    assert (i[0], d[0], u.tolist()) == (100_004, 50_002.0, [100_004, 0])
    assert narrow.tolist() == [0, 0, 0, 100_004 % 256, 0, 0, 0, 0]


def test_acquire_and_release(library: ctypes.CDLL) -> None:
    data, flag, wrong = np.zeros(65, np.int32), np.zeros(1, np.int32), [0, 0]
    library.message.restype = ctypes.c_long

    def body(i: int) -> None:
        wrong[i] = library.message(pointer(data), pointer(flag), i, 2_000)

    together(2, body)
    assert wrong == [0, 0] and flag[0] == -2_000


# -- in kernels -------------------------------------------------------------------------------------------------------

KERNELS = """
#include <cuda/atomic>
#include <cuda/std/atomic>
extern "C" __global__ void count(const int* x, int n, cuda::atomic<unsigned>* total, float* sum, unsigned long long* greatest) {
  __shared__ cuda::atomic<int, cuda::thread_scope_block> mine;
  if (threadIdx.x == 0) mine.store(0, cuda::memory_order_relaxed);
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && x[i] % 3 == 0) mine++;
  if (i < n) cuda::atomic_ref<float>(*sum) += 0.5f;
  if (i < n) cuda::atomic_ref<unsigned long long, cuda::thread_scope_device>(*greatest).fetch_max(x[i]);
  __syncthreads();
  if (threadIdx.x == 0) *total += mine.load();
}
// Blocks and threads take their turns in reverse: those that run first have to give way.
extern "C" __global__ void turns(int* next, int* order) {
  int me = gridDim.x * blockDim.x - 1 - (blockIdx.x * blockDim.x + threadIdx.x);
  cuda::atomic_ref<int, cuda::thread_scope_device> turn(*next);
  while (turn.load(cuda::memory_order_acquire) != me) {}
  order[me] = me * 10;
  turn.store(me + 1, cuda::memory_order_release);
}
"""


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(KERNELS)


def test_counters_in_kernels(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = np.random.default_rng(0).integers(0, 1 << 20, 10_000).astype(np.int32)
    total, total_sum, greatest = np.zeros(1, np.uint32), np.zeros(1, np.float32), np.zeros(1, np.uint64)
    module.get_function("count")((40,), (256,), (x, np.int32(x.size), total, total_sum, greatest))
    assert (total[0], total_sum[0], greatest[0]) == ((x % 3 == 0).sum(), 5_000, x.max())


def test_a_kernel_that_waits_for_its_turn(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    order, turn = np.zeros(8 * 32, np.int32), np.zeros(1, np.int32)
    module.get_function("turns")((8,), (32,), (turn, order))
    assert turn[0] == order.size and (order == np.arange(order.size) * 10).all()


def test_a_type_that_is_not_only_bits() -> None:
    code = """#include <cuda/atomic>
struct Bad { int x; __device__ Bad(const Bad& o) : x(o.x) {} };
__global__ void k(Bad* b) { cuda::atomic_ref<Bad> r(*b); }"""
    with pytest.raises(hmm.CompileError, match="needs a type that is only bits"):
        hmm.RawModule(code).compile()
