"""Half precision: every operation is the correctly rounded one, over all 65536 halves or very many pairs."""

from __future__ import annotations

import ctypes
import math
import threading
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from cudalib import build

HEADER = "#include <cuda_fp16.h>\n"
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.fmax,
    "min": np.fmin,
}
UNARY = {
    "sqrt": np.sqrt,
    "rcp": np.reciprocal,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "rint": np.rint,
    "exp": np.exp,
    "exp2": np.exp2,
    "exp10": lambda x: 10.0**x,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}
RELATIONS = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
COMPARE = {"heq": "==", "hneu": "!=", "hlt": "<", "hle": "<=", "hgt": ">", "hge": ">="}
Array = npt.NDArray


def source() -> str:
    text = HEADER
    for name in BINARY:
        text += f'extern "C" void {name}_(long n, const half* a, const half* b, half* c) {{ for (long i = 0; i < n; ++i) c[i] = __h{name}(a[i], b[i]); }}\n'
    for name in UNARY:
        text += f'extern "C" void {name}_(long n, const half* a, half* b) {{ for (long i = 0; i < n; ++i) b[i] = h{name}(a[i]); }}\n'
    for name, sign in COMPARE.items():
        text += f'extern "C" void {name}(long n, const half* a, const half* b, bool* c) {{ for (long i = 0; i < n; ++i) c[i] = __{name}(a[i], b[i]) && a[i] {sign} b[i]; }}\n'
    return (
        text
        + """
extern "C" void widen(long n, const half* a, float* b) { for (long i = 0; i < n; ++i) b[i] = __half2float(a[i]); }
extern "C" void narrow(long n, const float* a, half* b) { for (long i = 0; i < n; ++i) b[i] = __float2half(a[i]); }
extern "C" void narrow_d(long n, const double* a, half* b) { for (long i = 0; i < n; ++i) b[i] = __double2half(a[i]); }
extern "C" void narrow_rz(long n, const float* a, half* b) { for (long i = 0; i < n; ++i) b[i] = __float2half_rz(a[i]); }
extern "C" void narrow_ru(long n, const float* a, half* b) { for (long i = 0; i < n; ++i) b[i] = __float2half_ru(a[i]); }
extern "C" void narrow_rd(long n, const float* a, half* b) { for (long i = 0; i < n; ++i) b[i] = __float2half_rd(a[i]); }
extern "C" void fma_(long n, const half* a, const half* b, const half* c, half* d) { for (long i = 0; i < n; ++i) d[i] = __hfma(a[i], b[i], c[i]); }
extern "C" void to_int(long n, const half* a, int* b) { for (long i = 0; i < n; ++i) b[i] = __half2int_rz(a[i]); }
extern "C" void from_int(long n, const int* a, half* b) { for (long i = 0; i < n; ++i) b[i] = __int2half_rn(a[i]); }
extern "C" void hammer(half* one, half2* two, long n) { for (long i = 0; i < n; ++i) atomicAdd(one, half(1.f)), atomicAdd(two, half2(1.f, 2.f)); }
#define ADDS(name)                                                                                  \
  extern "C" void name##_(half* x, half2* two, const half* v, const half2* w, half* old, half2* both) {   \
    *old = name(x, *v), *both = name(two, *w);                                                            \
  }
ADDS(atomicAdd)
ADDS(atomicAdd_block)
ADDS(atomicAdd_system)
static_assert(sizeof(half) == 2 && alignof(half2) == 4 && sizeof(half2) == 4, "layout");
extern "C" int pairs() {
  half2 v = __floats2half2_rn(1.5f, 2.5f), w = __half2half2(2), s = v * w + __hneg2(v);
  float2 f = __half22float2(__lowhigh2highlow(s));
  half h = 3; h += half(1); ++h; h = h - half(0.5f); h *= 2; h /= half(3.0);
  bool order = h == half(3) && h < half(4) && h != half(2) && -h <= half(-3) && __hbeq2(v, v) && !(v == w);
  __hadd2(v, w); hsqrt(h); h2exp(v);
  return order && f.x == 2.5f && f.y == 1.5f && __low2float(v) == 1.5f && __half_as_ushort(half(1.f)) == 0x3c00
    && float(__hadd_sat(half(0.75f), half(0.75f))) == 1.0f && __hisnan(__ushort_as_half(0x7e00)) && __hisinf(half(-1e6f)) == -1
    && __heq2_mask(v, __halves2half2(v.x, w.y)) == 0xffffu && __hequ(__ushort_as_half(0x7e00), half(1)) && !__hne(__ushort_as_half(0x7e00), half(1)) && (bool)half(1) && !half(0);
}
"""
    )


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return build(source())


def call(library: ctypes.CDLL, name: str, inputs: list[Array], dtype: npt.DTypeLike) -> Array:
    arrays = [np.ascontiguousarray(x) for x in inputs]
    out = np.empty(arrays[0].size, dtype)
    getattr(library, name)(ctypes.c_long(out.size), *[ctypes.c_void_p(x.ctypes.data) for x in (*arrays, out)])
    return out


EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def pairs(count: int) -> list[Array]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 1 << 16, 200_000, np.uint16).view(np.float16) for _ in range(count)]


def same(got: Array, wanted: Array) -> None:
    different = ~(
        (got == wanted) & (np.signbit(got) == np.signbit(wanted)) | np.isnan(got) & np.isnan(wanted)
    )
    assert not different.any(), (np.flatnonzero(different)[:5], got[different][:5], wanted[different][:5])


def test_conversions(library: ctypes.CDLL) -> None:
    same(call(library, "widen", [EVERY], np.float32), EVERY.astype(np.float32))
    rng = np.random.default_rng(1)
    with np.errstate(invalid="ignore"):
        midpoints = (EVERY[:-1].astype(np.float64) + EVERY[1:].astype(np.float64)) / 2
    values = np.concatenate(
        [
            midpoints,
            np.nextafter(midpoints, np.inf),
            np.nextafter(midpoints, -np.inf),
            rng.normal(0, 1000, 5000),
            [np.inf, 1e30, -1e30, 65519.99, 65520.0, 1e-8],
        ]
    )
    with np.errstate(over="ignore"):
        same(call(library, "narrow_d", [values], np.float16), values.astype(np.float16))
        singles = values.astype(np.float32)
        same(call(library, "narrow", [singles], np.float16), singles.astype(np.float16))


@pytest.mark.parametrize("mode", ["rz", "ru", "rd"])
def test_directed_conversions(library: ctypes.CDLL, mode: str) -> None:
    values = np.concatenate(
        [
            np.random.default_rng(1).normal(0, 100, 3000),
            [0.0, 1e-9, -1e-9, 65504.0, 65519.0, 7e4, -7e4, 1.0009765625],
        ]
    ).astype(np.float32)
    got = call(library, f"narrow_{mode}", [values], np.float16)
    for x, r in zip(values, got, strict=True):
        kind = {"rz": "rd" if x >= 0 else "ru"}.get(mode, mode)
        with np.errstate(over="ignore"):
            below, above = np.nextafter(r, np.float16(-np.inf)), np.nextafter(r, np.float16(np.inf))
        assert (r <= x < above) if kind == "rd" else (below < x <= r), (x, r)


@pytest.mark.parametrize("name", BINARY)
def test_binary(library: ctypes.CDLL, name: str) -> None:
    a, b = pairs(2)
    got = call(library, name + "_", [a, b], np.float16)
    with np.errstate(all="ignore"):
        wanted = BINARY[name](a.astype(np.float64), b.astype(np.float64)).astype(np.float16)
    if name in ("max", "min"):  # of two zeros either may come out
        np.testing.assert_array_equal(got, wanted)
    else:
        same(got, wanted)


def test_fma_rounds_once(library: ctypes.CDLL) -> None:
    a, b, c = (x[:20_000] for x in pairs(3))
    got = call(library, "fma_", [a, b, c], np.float16)
    checked = 0
    for x, y, z, r in zip(a.tolist(), b.tolist(), c.tolist(), got, strict=True):
        if not all(map(math.isfinite, (x, y, z, float(r)))) or abs(float(r)) >= 65504:
            continue
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        low, high = (Fraction(float(np.nextafter(r, np.float16(s)))) for s in (-np.inf, np.inf))
        off = abs(Fraction(float(r)) - exact)
        assert off <= abs(low - exact) and off <= abs(high - exact), (x, y, z, r)
        checked += 1
    assert checked > 5000


@pytest.mark.parametrize("name", UNARY)
def test_functions_over_every_half(library: ctypes.CDLL, name: str) -> None:
    with np.errstate(all="ignore"):
        wanted = UNARY[name](EVERY.astype(np.float64)).astype(np.float16)
    got = call(library, name + "_", [EVERY], np.float16)
    if name in ("sqrt", "rcp", "floor", "ceil", "trunc", "rint"):
        same(got, wanted)
        return
    # computed in float: at most one step off, where the exact value lies next to a midpoint
    steps = np.abs(got.view(np.int16).astype(np.int32) - wanted.view(np.int16).astype(np.int32))
    steps = np.where((np.isnan(got) & np.isnan(wanted)) | (got == wanted), 0, steps)
    assert steps.max() <= 1 and (steps == 1).mean() < 0.001


@pytest.mark.parametrize("name", COMPARE)
def test_comparisons(library: ctypes.CDLL, name: str) -> None:
    a, b = pairs(2)
    b[::3] = a[::3]
    np.testing.assert_array_equal(call(library, name, [a, b], np.bool_), RELATIONS[COMPARE[name]](a, b))


def test_integers(library: ctypes.CDLL) -> None:
    got = call(library, "to_int", [EVERY], np.int32)
    finite = np.isfinite(EVERY)
    np.testing.assert_array_equal(got[finite], np.trunc(EVERY[finite].astype(np.float64)).astype(np.int32))
    assert (got[np.isnan(EVERY)] == 0).all() and got[np.inf == EVERY].tolist() == [2**31 - 1]
    values = np.concatenate([np.arange(-70000, 70000, 7), [2**31 - 1, -(2**31)]]).astype(np.int32)
    with np.errstate(over="ignore"):
        same(call(library, "from_int", [values], np.float16), values.astype(np.float64).astype(np.float16))


def test_pairs_and_operators(library: ctypes.CDLL) -> None:
    assert library.pairs() == 1


def test_atomic_add_between_threads(library: ctypes.CDLL) -> None:
    one, two = np.zeros(2, np.float16), np.zeros(2, np.float16)
    threads = [
        threading.Thread(
            target=library.hammer,
            args=(ctypes.c_void_p(one.ctypes.data), ctypes.c_void_p(two.ctypes.data), ctypes.c_long(250)),
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.tolist() == [1000, 0] and two.tolist() == [1000, 2000]


@pytest.mark.parametrize("scope", ["", "_block", "_system"])
def test_atomic_add_in_each_scope(library: ctypes.CDLL, scope: str) -> None:
    add = getattr(library, f"atomicAdd{scope}_")
    for before, value in [(1.0, 0.5), (2048.0, 1.0), (65504.0, 65504.0), (-0.1, 0.3), (6e-8, 6e-8)]:
        memory = np.array([7, before, before, -before], np.float16)  # one, and a pair
        one, pair = np.array([value], np.float16), np.array([value, value / 2], np.float16)
        old = np.zeros(4, np.float16)
        with np.errstate(over="ignore"):
            wanted = np.array([7, before, before, -before], np.float16) + np.array(
                [0, value, value, value / 2], np.float16
            )
        add(*(ctypes.c_void_p(x.ctypes.data) for x in (memory[1:], memory[2:], one, pair, old, old[2:])))
        assert memory.tobytes() == wanted.tobytes(), (before, value)
        assert old.tolist() == np.array([before, 0, before, -before], np.float16).tolist()
