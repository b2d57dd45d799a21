"""CUDA's mathematical functions against longer arithmetic, within a stated number of units in the last place.

`ulp` is what each function may be off by here (libmvec's vector variants are within 4). None is wider than what the
CUDA C++ Programming Guide states for the full-precision function, where that is more than 4.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from cudalib import array_function, build, call, ulp_error
from special_values import REFERENCES

Array = npt.NDArray
PI = np.longdouble("3.14159265358979323846264338327950288")


@dataclass(frozen=True)
class Case:
    """A function of one or two real arguments, both precisions: its reference and where it is tried."""

    reference: Callable[..., Array]
    domain: tuple[float, float] = (-20.0, 20.0)
    second: tuple[float, float] | None = None
    ulp: float = 4.0
    name: str = ""  # CUDA's name, where it differs


def sin_pi(x: Array) -> Array:
    r = x - 2 * np.rint(x / 2)
    return np.where(np.abs(r) > 0.5, np.sin(PI * (np.copysign(1, r) - r)), np.sin(PI * r))


def cos_pi(x: Array) -> Array:
    return sin_pi(np.abs(x) + np.longdouble(0.5))


ONE = {
    "sin": Case(np.sin), "cos": Case(np.cos), "tan": Case(np.tan, (-1.5, 1.5)),
    "asin": Case(np.arcsin, (-1, 1)), "acos": Case(np.arccos, (-1, 1)), "atan": Case(np.arctan),
    "sinh": Case(np.sinh), "cosh": Case(np.cosh), "tanh": Case(np.tanh),
    "asinh": Case(np.arcsinh), "acosh": Case(np.arccosh, (1, 50)), "atanh": Case(np.arctanh, (-0.99, 0.99)),
    "exp": Case(np.exp), "exp2": Case(np.exp2), "expm1": Case(np.expm1),
    "exp10": Case(lambda x: np.longdouble(10) ** x),
    "log": Case(np.log, (1e-30, 50)), "log2": Case(np.log2, (1e-30, 50)), "log10": Case(np.log10, (1e-30, 50)), "log1p": Case(np.log1p, (-0.9, 50)),
    "sqrt": Case(np.sqrt, (0, 1e6), ulp=0.5), "cbrt": Case(np.cbrt, (-1e6, 1e6)),
    "rsqrt": Case(lambda x: 1 / np.sqrt(x), (1e-6, 1e6), ulp=2), "rcbrt": Case(lambda x: 1 / np.cbrt(x), (1e-6, 1e6)),
    "sinpi": Case(sin_pi, (-40, 40)), "cospi": Case(cos_pi, (-40, 40)),
    "floor": Case(np.floor, ulp=0), "ceil": Case(np.ceil, ulp=0), "trunc": Case(np.trunc, ulp=0), "rint": Case(np.rint, ulp=0),
    "nearbyint": Case(np.rint, ulp=0), "round": Case(lambda x: np.copysign(np.floor(np.abs(x) + np.longdouble(0.5)), x), ulp=0),
    "fabs": Case(np.abs, ulp=0), "logb": Case(lambda x: np.floor(np.log2(np.abs(x))), (1.5, 1e5), ulp=0),
}  # fmt: skip
TWO = {
    "pow": Case(np.power, (1e-3, 50), (-10, 10)), "atan2": Case(np.arctan2, second=(-20, 20)),
    "hypot": Case(np.hypot, second=(-20, 20)), "rhypot": Case(lambda x, y: 1 / np.hypot(x, y), second=(0.1, 20)),
    "fmod": Case(np.fmod, second=(0.1, 3), ulp=0), "remainder": Case(lambda x, y: x - y * np.rint(x / y), second=(0.1, 3), ulp=0),
    "fdim": Case(lambda x, y: np.maximum(x - y, 0), second=(-20, 20), ulp=0.5), "copysign": Case(np.copysign, second=(-20, 20), ulp=0),
    "fmax": Case(np.fmax, second=(-20, 20), ulp=0), "fmin": Case(np.fmin, second=(-20, 20), ulp=0),
    "fdivide": Case(np.divide, second=(0.1, 3), ulp=0.5),
}  # fmt: skip
FAST = {
    "__sinf": "sin",
    "__cosf": "cos",
    "__tanf": "tan",
    "__expf": "exp",
    "__exp10f": "exp10",
    "__logf": "log",
    "__log2f": "log2",
    "__log10f": "log10",
    "__powf": "pow",
}
# ulp of (float, double), at most what CUDA states; the Bessel functions are libm's
SPECIAL_ULP = {
    "j0": (9, 9),
    "j1": (9, 9),
    "y0": (9, 9),
    "y1": (9, 9),
    "lgamma": (4, 6),
    "tgamma": (5, 10),
    "normcdf": (3, 5),
    "erfcx": (3, 5),
}


def expressions() -> dict[str, tuple[str, list[str], str]]:
    """Name: (expression, types of the arguments, type of the result): for both precisions, and both spellings in float."""
    made: dict[str, tuple[str, list[str], str]] = {}
    names = {name: 1 for name in (*ONE, *REFERENCES)} | {name: 2 for name in TWO}
    for name, count in names.items():
        arguments = ", ".join("ab"[:count])
        made[f"{name}_double"] = (f"{name}({arguments})", ["double"] * count, "double")
        made[f"{name}_overload"] = (f"{name}({arguments})", ["float"] * count, "float")
        made[f"{name}_float"] = (f"{name}f({arguments})", ["float"] * count, "float")
    for name, like in FAST.items():
        count = names[like]
        made[name] = (f"{name}({', '.join('ab'[:count])})", ["float"] * count, "float")
    return made


FUNCTIONS = expressions()


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return build("".join(array_function("run" + name, *parts) for name, parts in FUNCTIONS.items()))


def points(low: float, high: float, dtype: npt.DTypeLike, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    spread = low + (high - low) * rng.random(1500)
    if low > 0:
        spread = np.exp(np.log(low) + (np.log(high) - np.log(low)) * rng.random(1500))
    edges = [low, high, (low + high) / 2, max(low, 1.0), 0.5 * high]
    values = np.concatenate([edges, spread]).astype(dtype)
    return np.clip(values, np.dtype(dtype).type(low), np.dtype(dtype).type(high))


def check(library: ctypes.CDLL, function: str, case: Case, dtype: type) -> None:
    inputs = [points(*case.domain, dtype, 1)]
    if case.second:
        inputs.append(points(*case.second, dtype, 2))
    got = call(library, "run" + function, inputs, dtype)
    exact = case.reference(*[x.astype(np.longdouble) for x in inputs])
    error = ulp_error(got, exact)
    worst = int(np.argmax(error))
    assert error[worst] <= case.ulp + 1e-3, (
        f"{function}({[float(x[worst]) for x in inputs]}) is off by {error[worst]:.1f} ulp"
    )


@pytest.mark.parametrize("form", ["float", "overload", "double"])
@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_within_stated_ulp(library: ctypes.CDLL, name: str, form: str) -> None:
    case = (ONE | TWO)[name]
    check(library, f"{name}_{form}", case, np.float64 if form == "double" else np.float32)


@pytest.mark.parametrize("name", FAST)
def test_fast_functions(library: ctypes.CDLL, name: str) -> None:
    check(library, name, (ONE | TWO)[FAST[name]], np.float32)


@pytest.mark.parametrize("form", ["float", "overload", "double"])
@pytest.mark.parametrize("name", REFERENCES)
def test_special_functions(library: ctypes.CDLL, name: str, form: str) -> None:
    dtype = np.float64 if form == "double" else np.float32
    rows = [(x, value) for x, value in REFERENCES[name] if float(dtype(x)) == x]
    tiniest = float(np.finfo(dtype).tiny)
    rows = [(x, v) for x, v in rows if tiniest <= abs(float(v)) < float(np.finfo(dtype).max) or float(v) == 0]
    assert len(rows) >= 5
    got = call(library, f"run{name}_{form}", [np.array([x for x, _ in rows], dtype)], dtype)
    error = ulp_error(got, np.array([np.longdouble(value) for _, value in rows]))
    limit = SPECIAL_ULP.get(name, (4, 6))[form == "double"]
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({rows[worst][0]}) is off by {error[worst]:.1f} ulp"


def scalar(library: ctypes.CDLL, name: str, *arguments: float, dtype: type = np.float64) -> float:
    return float(call(library, "run" + name, [np.array([a], dtype) for a in arguments], dtype)[0])


def test_special_values(library: ctypes.CDLL) -> None:
    assert scalar(library, "sinpi_double", 1e15) == 0 and scalar(library, "cospi_double", 1e15) == 1
    assert [scalar(library, "sinpi_double", x) for x in (0.5, 1.5, 2.0, -0.5)] == [1, -1, 0, -1]
    assert [scalar(library, "cospi_double", x) for x in (0.5, 1.0, 1.5, 2.0)] == [0, -1, 0, 1]
    assert math.copysign(1, scalar(library, "sinpi_double", -0.0)) == -1
    assert (
        scalar(library, "erfinv_double", 1.0) == math.inf
        and scalar(library, "erfinv_double", -1.0) == -math.inf
    )
    assert (
        math.isnan(scalar(library, "erfinv_double", 1.5))
        and scalar(library, "erfcinv_double", 0.0) == math.inf
    )
    assert (
        scalar(library, "normcdfinv_double", 0.5) == 0
        and scalar(library, "normcdfinv_double", 1.0) == math.inf
    )
    assert (
        scalar(library, "normcdf_double", math.inf) == 1 and scalar(library, "normcdf_double", -math.inf) == 0
    )
    assert (
        scalar(library, "cyl_bessel_i0_double", math.inf) == math.inf
        and scalar(library, "cyl_bessel_i1_double", -math.inf) == -math.inf
    )
    assert scalar(library, "rsqrt_double", 0.0) == math.inf and scalar(
        library, "erfcx_double", 1e200
    ) == pytest.approx(1 / (math.sqrt(math.pi) * 1e200))
    assert (
        scalar(library, "fmax_double", math.nan, 3.0) == 3
        and scalar(library, "fmin_double", 3.0, math.nan) == 3
    )
    assert math.isnan(scalar(library, "fmax_double", math.nan, math.nan))


def rows_of(*values: Sequence[float]) -> list[Array]:
    return [np.array(column, np.float64) for column in zip(*values, strict=True)]


def test_norms() -> None:
    lib = build(
        "".join(
            array_function(f"{prefix}norm{n}{kind[0]}", f"{prefix}norm{n}d{'f' if kind == 'float' else ''}({', '.join('abcd'[:n])})", [kind] * n, kind)
            for prefix in ("", "r") for n in (3, 4) for kind in ("float", "double")
        )
        + 'extern "C" double many(int n, const double* x) { return norm(n, x); }\n'
        + 'extern "C" float manyf(int n, const float* x) { return normf(n, x) + 0 * rnormf(n, x); }\n'
    )  # fmt: skip
    rng = np.random.default_rng(4)
    for n in (3, 4):
        x = rng.uniform(-10, 10, (n, 500))
        exact = np.sqrt((x.astype(np.longdouble) ** 2).sum(axis=0))
        assert ulp_error(call(lib, f"norm{n}d", list(x), np.float64), exact).max() <= 2
        assert ulp_error(call(lib, f"rnorm{n}d", list(x), np.float64), 1 / exact).max() <= 3
        narrow = x.astype(np.float32)
        exact = np.sqrt((narrow.astype(np.longdouble) ** 2).sum(axis=0))
        assert ulp_error(call(lib, f"norm{n}f", list(narrow), np.float32), exact).max() <= 2
        assert ulp_error(call(lib, f"rnorm{n}f", list(narrow), np.float32), 1 / exact).max() <= 3
    for scale in (1e300, 1e-300):
        (norm,) = call(lib, "norm3d", rows_of((2 * scale, 3 * scale, 6 * scale)), np.float64)
        assert norm == pytest.approx(7 * scale, rel=1e-15)
    special = call(lib, "norm3d", rows_of((0, 0, 0), (math.inf, math.nan, 1), (1, math.nan, 1)), np.float64)
    assert special[0] == 0 and special[1] == math.inf and math.isnan(special[2])
    lib.many.restype, lib.manyf.restype = ctypes.c_double, ctypes.c_float
    values = np.array([3e200, 4e200, 0.0])
    assert lib.many(3, ctypes.c_void_p(values.ctypes.data)) == pytest.approx(5e200)
    floats = np.array([3e30, 4e30], np.float32)
    assert lib.manyf(2, ctypes.c_void_p(floats.ctypes.data)) == pytest.approx(5e30)
