"""bfloat16: every operation is the correctly rounded one. NumPy has no such type, so arrays here hold its bits."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from cudalib import array_function, build, call

T, HEADER = "__nv_bfloat16", "#include <cuda_bf16.h>\n"
Array = npt.NDArray
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.fmax,
    "min": np.fmin,
}
UNARY = {"sqrt": np.sqrt, "floor": np.floor, "rint": np.rint, "exp": np.exp, "log2": np.log2, "sin": np.sin}
EVERY = np.arange(1 << 16, dtype=np.uint16)

CHECKS = """
static_assert(sizeof(nv_bfloat16) == 2 && alignof(nv_bfloat162) == 4, "layout");
extern "C" __device__ int pairs() {
  nv_bfloat162 v = __floats2bfloat162_rn(1.5f, 2.5f), w = __bfloat162bfloat162(2), s = v * w + __hneg2(v);
  float2 f = __bfloat1622float2(__lowhigh2highlow(s));
  nv_bfloat16 h = 3; h += nv_bfloat16(1); ++h; h *= 2; h /= nv_bfloat16(5.0);
  nv_bfloat16 sum = 0;
  nv_bfloat162 both = __halves2bfloat162(h, h);
  atomicAdd(&sum, nv_bfloat16(1.5f)), atomicAdd(&both, v);
  bool order = h == nv_bfloat16(2) && h < nv_bfloat16(4) && h != nv_bfloat16(3) && -h <= nv_bfloat16(-2) && __hbeq2(v, v);
  return order && f.x == 2.5f && f.y == 1.5f && __low2float(v) == 1.5f && __bfloat16_as_ushort(nv_bfloat16(1.f)) == 0x3f80
    && float(sum) == 1.5f && __high2float(both) == 4.5f && __bfloat162int_rz(nv_bfloat16(-7.5f)) == -7
    && float(__low2bfloat16(__highs2bfloat162(v, w))) == 2.5f && float(__hadd_sat(h, h)) == 1.0f;
}
"""


def source() -> str:
    text = HEADER + CHECKS
    text += "".join(array_function(f"{name}_", f"__h{name}(a, b)", [T, T], T) for name in BINARY)
    text += "".join(array_function(f"{name}_", f"h{name}(a)", [T], T) for name in UNARY)
    text += array_function("fma_", "__hfma(a, b, c)", [T, T, T], T)
    text += array_function("widen", "__bfloat162float(a)", [T], "float")
    text += array_function("narrow", "__double2bfloat16(a)", ["double"], T)
    text += "".join(
        array_function(f"narrow_{m}", f"__float2bfloat16_{m}(a)", ["float"], T)
        for m in ("rn", "rz", "ru", "rd")
    )
    return text + array_function("from_ll", "__ll2bfloat16_rn(a)", ["long long"], T)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return build(source())


def values(bits: Array) -> Array:
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def rounded(x: Array) -> Array:
    """To 8 significant bits and float's exponents, ties to even, as float64."""
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(x)
        step = np.maximum(exponent - 8, -133)
        result = np.ldexp(np.rint(np.ldexp(x, -step)), step)
        return np.where(np.abs(result) >= 2.0**128, np.copysign(np.inf, x), result)


def same(got: Array, wanted: Array) -> None:
    found = values(got)
    different = ~(
        (found == wanted) & (np.signbit(found) == np.signbit(wanted)) | np.isnan(found) & np.isnan(wanted)
    )
    assert not different.any(), (np.flatnonzero(different)[:5], found[different][:5], wanted[different][:5])


def operands(count: int) -> list[Array]:
    rng = np.random.default_rng(8)
    near = (
        rng.integers(0x3C00, 0x4200, (count, 100_000), np.uint16)
        | rng.integers(0, 2, (count, 100_000), np.uint16) << 15
    )
    return list(
        np.concatenate([near, rng.integers(0, 1 << 16, (count, 100_000), np.uint16)], axis=1).astype(
            np.uint16
        )
    )


def test_conversions(library: ctypes.CDLL) -> None:
    with np.errstate(invalid="ignore"):
        widened = call(library, "widen", [EVERY], np.float32).astype(np.float64)
    np.testing.assert_array_equal(widened, values(EVERY))
    finite = np.sort(widened[np.isfinite(widened)])
    midpoints = (finite[:-1] + finite[1:]) / 2
    tried = np.concatenate(
        [
            midpoints,
            np.nextafter(midpoints, np.inf),
            np.nextafter(midpoints, -np.inf),
            [np.inf, 1e300, -1e-300, 3.3961775e38],
        ]
    )
    same(call(library, "narrow", [tried], np.uint16), rounded(tried))
    with np.errstate(over="ignore"):
        singles = tried.astype(np.float32)
    same(call(library, "narrow_rn", [singles], np.uint16), rounded(singles.astype(np.float64)))


@pytest.mark.parametrize("mode", ["rz", "ru", "rd"])
def test_directed_conversions(library: ctypes.CDLL, mode: str) -> None:
    x = (
        np.random.default_rng(1).normal(0, 1, 3000) * 10.0 ** np.random.default_rng(2).integers(-44, 38, 3000)
    ).astype(np.float32)
    bits = call(library, f"narrow_{mode}", [x], np.uint16)
    exact, found = x.astype(np.float64), values(bits)
    nearest = rounded(exact)
    down = (mode == "rd") | ((mode == "rz") & (exact >= 0))
    assert np.where(down, found <= exact, found >= exact).all()
    spacing = np.ldexp(1.0, np.maximum(np.frexp(exact)[1] - 8, -133))
    assert (np.abs(found - exact) < spacing).all() and (np.abs(found - nearest) <= spacing).all()


@pytest.mark.parametrize("name", BINARY)
def test_binary(library: ctypes.CDLL, name: str) -> None:
    a, b = operands(2)
    got = call(library, name + "_", [a, b], np.uint16)
    with np.errstate(all="ignore"):
        wanted = rounded(BINARY[name](values(a), values(b)))
    if name in ("max", "min"):  # of two zeros either may come out
        np.testing.assert_array_equal(values(got), wanted)
    else:
        same(got, wanted)


def test_fma_rounds_once(library: ctypes.CDLL) -> None:
    a, b, c = (np.concatenate([x[:8000], x[-8000:]]) for x in operands(3))
    # a product halfway between two bfloat16, and a tiny term that decides
    a = np.append(a, [0x3F81, 0x3F81]).astype(np.uint16)
    b = np.append(b, [0x3F80 | 0x40, 0x3F80 | 0x40]).astype(np.uint16)
    c = np.append(c, [0x0080, 0x8080]).astype(np.uint16)
    got = call(library, "fma_", [a, b, c], np.uint16)
    checked = 0
    for x, y, z, bits in zip(values(a).tolist(), values(b).tolist(), values(c).tolist(), got, strict=True):
        r = float(values(np.array([bits]))[0])
        if not all(map(math.isfinite, (x, y, z, r))) or bits & 0x7FFF in (0, 0x7F7F):
            continue
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        below, above = (Fraction(float(v)) for v in values(np.array([bits - 1, bits + 1], np.uint16)))
        off = abs(Fraction(r) - exact)
        assert off <= abs(below - exact) and off <= abs(above - exact), (x, y, z, r)
        checked += 1
    assert checked > 8000


@pytest.mark.parametrize("name", UNARY)
def test_functions_over_every_value(library: ctypes.CDLL, name: str) -> None:
    with np.errstate(all="ignore"):
        wanted = rounded(UNARY[name](values(EVERY)))
    found = values(call(library, name + "_", [EVERY], np.uint16))
    with np.errstate(all="ignore"):
        same_value = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        close = np.abs(found - wanted) <= np.abs(wanted) * 2.0**-7
    if name in ("sqrt", "floor", "rint"):
        assert same_value.all()
    else:
        assert (same_value | close).all() and same_value.mean() > 0.999


def test_long_integers_round_once(library: ctypes.CDLL) -> None:
    x = np.array(
        [
            0,
            1,
            -3,
            257,
            259,
            2**62 + 2**54,
            2**62 + 2**54 + 1,
            2**62 + 2**54 - 1,
            -(2**62) - 2**54 - 1,
            2**63 - 1,
        ],
        np.int64,
    )
    wanted = [0, 1, -3, 256, 260, 2**62, 2**62 + 2**55, 2**62, -(2**62) - 2**55, 2**63]
    assert values(call(library, "from_ll", [x], np.uint16)).tolist() == wanted


def test_pairs_operators_and_atomics(library: ctypes.CDLL) -> None:
    assert library.pairs() == 1
