"""Arithmetic with a stated rounding and conversions, against exact rational numbers: every bit has to be right."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from cudalib import array_function, build, call

MODES = ("rn", "rz", "ru", "rd")
OPERATIONS: dict[str, tuple[int, Callable[..., Fraction]]] = {
    "add": (2, lambda x, y: x + y),
    "sub": (2, lambda x, y: x - y),
    "mul": (2, lambda x, y: x * y),
    "div": (2, lambda x, y: x / y),
    "rcp": (1, lambda x: 1 / x),
    "sqrt": (1, lambda x: x),  # compared as squares
    "fma": (3, lambda x, y, z: x * y + z),
}
INTEGERS = {
    "int": ("int", np.int32), "uint": ("unsigned int", np.uint32),
    "ll": ("long long", np.int64), "ull": ("unsigned long long", np.uint64),
}  # fmt: skip
FLOATS = {"float": ("float", np.float32), "double": ("double", np.float64)}


def arithmetic_name(operation: str, kind: str, mode: str) -> str:
    if operation == "fma":
        return f"__fma{'f' if kind == 'float' else ''}_{mode}"
    return f"__{kind[0]}{operation}_{mode}"


def sources() -> dict[str, tuple[str, list[str], str]]:
    """Name: (expression, types of the arguments, type of the result), for every function tested here."""
    made: dict[str, tuple[str, list[str], str]] = {}
    for kind in FLOATS:
        for operation, (count, _) in OPERATIONS.items():
            for mode in MODES:
                name = arithmetic_name(operation, kind, mode)
                made[name] = (f"{name}({', '.join('abc'[:count])})", [kind] * count, kind)
        for integer, (c_type, _) in INTEGERS.items():
            for mode in MODES:
                made[f"__{kind}2{integer}_{mode}"] = (f"__{kind}2{integer}_{mode}(a)", [kind], c_type)
                if kind == "float" or integer in ("ll", "ull") or mode == "rn":
                    made[f"__{integer}2{kind}_{mode}"] = (f"__{integer}2{kind}_{mode}(a)", [c_type], kind)
    for mode in MODES:
        made[f"__double2float_{mode}"] = (f"__double2float_{mode}(a)", ["double"], "float")
    return made


FUNCTIONS = sources()


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return build("".join(array_function("run" + name, *parts) for name, parts in FUNCTIONS.items()))


def is_rounded(result: float, exact: Fraction, mode: str, dtype: type, power: int = 1) -> bool:
    """Is `result` what `exact` rounds to? With power 2, `exact` is the square of the exact result (which is positive)."""
    kind = np.dtype(dtype)
    r = kind.type(result)
    with np.errstate(over="ignore"):
        below, above = np.nextafter(r, kind.type(-np.inf)), np.nextafter(r, kind.type(np.inf))

    def value(x: np.floating) -> Fraction | float:
        exactly = Fraction(0) if math.isinf(x) else Fraction(float(x))
        return float(x) if math.isinf(x) else exactly * abs(exactly) ** (power - 1)  # a square keeps its sign

    if mode == "rz":
        mode = "rd" if exact >= 0 else "ru"
    if mode == "rd":
        return value(r) <= exact and value(above) > exact
    if mode == "ru":
        return value(r) >= exact and value(below) < exact
    raise ValueError(mode)


def operands(dtype: type, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    info = np.finfo(dtype)
    edges = [
        0.0,
        1.0,
        -1.0,
        3.0,
        1 / 3,
        -0.1,
        info.max,
        -info.max,
        info.tiny,
        -info.tiny,
        info.smallest_subnormal,
        1 + info.eps,
        1 - info.epsneg,
        0.5 * info.eps,
    ]
    with np.errstate(all="ignore"):
        grid = np.array(np.meshgrid(*[np.array(edges, dtype)] * count)).reshape(count, -1)
        scale = rng.integers(-40, 40, (count, 400))
        drawn = np.ldexp(rng.uniform(-1, 1, (count, 400)), scale).astype(dtype)
        tiny = np.ldexp(
            rng.uniform(-1, 1, (count, 200)), info.minexp + rng.integers(-info.nmant, 20, (count, 200))
        ).astype(dtype)
    return list(np.concatenate([grid, drawn, tiny], axis=1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", FLOATS)
def test_arithmetic(library: ctypes.CDLL, kind: str, operation: str, mode: str) -> None:
    count, exactly = OPERATIONS[operation]
    dtype = FLOATS[kind][1]
    inputs = operands(dtype, count)
    if operation == "sqrt":
        inputs = [np.abs(x) for x in inputs]
    got = call(library, "run" + arithmetic_name(operation, kind, mode), inputs, dtype)
    if mode == "rn" and operation != "fma":
        with np.errstate(all="ignore"):
            x, *y = inputs
            wanted = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}.get(operation)
            reference = wanted(x, y[0]) if wanted else np.sqrt(x) if operation == "sqrt" else dtype(1) / x
        np.testing.assert_array_equal(got, reference)
        return
    checked = 0
    for result, *arguments in zip(got.tolist(), *[x.tolist() for x in inputs], strict=True):
        if operation in ("div", "rcp") and arguments[-1] == 0:
            continue
        exact = exactly(*[Fraction(a) for a in arguments])
        if mode == "rn":  # fma: nearest of both neighbours, ties aside
            with np.errstate(over="ignore"):
                low, high = (
                    np.nextafter(dtype(result), dtype(-np.inf)),
                    np.nextafter(dtype(result), dtype(np.inf)),
                )
            if all(math.isfinite(x) for x in (result, low, high)):
                off = abs(Fraction(result) - exact)
                assert off <= abs(Fraction(float(low)) - exact) and off <= abs(
                    Fraction(float(high)) - exact
                ), arguments
                checked += 1
            continue
        assert is_rounded(result, exact, mode, dtype, 2 if operation == "sqrt" else 1), (arguments, result)
        checked += 1
    assert checked > 400


@pytest.mark.parametrize("kind", FLOATS)
def test_signs_of_zero_and_special_values(library: ctypes.CDLL, kind: str) -> None:
    dtype = FLOATS[kind][1]

    def one(operation: str, mode: str, *arguments: float) -> float:
        return float(
            call(
                library,
                "run" + arithmetic_name(operation, kind, mode),
                [np.array([a], dtype) for a in arguments],
                dtype,
            )[0]
        )

    assert math.copysign(1, one("add", "rd", 1.0, -1.0)) == -1  # x - x is -0 only when rounding down
    assert math.copysign(1, one("add", "ru", 1.0, -1.0)) == 1
    assert math.copysign(1, one("add", "rd", 0.0, 0.0)) == 1
    assert math.copysign(1, one("fma", "rd", 1.0, 1.0, -1.0)) == -1
    tiny = float(np.finfo(dtype).smallest_subnormal)
    assert one("mul", "ru", tiny, tiny) == tiny and one("mul", "rd", tiny, tiny) == 0.0
    assert one("mul", "rd", tiny, -tiny) == -tiny
    for mode in MODES:
        assert math.isinf(one("add", mode, math.inf, 1.0)) and math.isnan(
            one("add", mode, math.inf, -math.inf)
        )
        assert one("div", mode, 1.0, 0.0) == math.inf and math.isnan(one("div", mode, 0.0, 0.0))
        assert one("div", mode, 1.0, math.inf) == 0.0 and math.isnan(one("sqrt", mode, -1.0))
        assert math.isnan(one("mul", mode, math.nan, 1.0)) and one("sqrt", mode, math.inf) == math.inf


def whole(x: float, mode: str) -> int:
    return {"rn": round, "rz": math.trunc, "ru": math.ceil, "rd": math.floor}[mode](x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("integer", INTEGERS)
@pytest.mark.parametrize("kind", FLOATS)
def test_float_to_integer(library: ctypes.CDLL, kind: str, integer: str, mode: str) -> None:
    dtype, target = FLOATS[kind][1], INTEGERS[integer][1]
    limits = np.iinfo(target)
    rng = np.random.default_rng(5)
    edges = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, 1e30, -1e30, np.inf, -np.inf]
    edges += [
        s * np.float64(2.0**e) + d
        for e in (31, 32, 62, 63, 64)
        for s in (1, -1)
        for d in (-1.5, -0.5, 0, 0.5, 1)
    ]
    values = np.concatenate(
        [
            edges,
            rng.uniform(-100, 100, 200),
            rng.uniform(-1.2, 1.2, 300) * 2.0**64,
            rng.uniform(-1.2, 1.2, 300) * 2.0**32,
        ]
    ).astype(dtype)
    got = call(library, f"run__{kind}2{integer}_{mode}", [values], target)
    for x, result in zip(values.tolist(), got.tolist(), strict=True):
        wanted = (
            max(limits.min, min(whole(x, mode), limits.max))
            if math.isfinite(x)
            else limits.max
            if x > 0
            else limits.min
        )
        assert result == wanted, x
    assert call(library, f"run__{kind}2{integer}_{mode}", [np.array([np.nan], dtype)], target)[0] == 0


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name[2:].split("2")[0] in INTEGERS])
def test_integer_to_float(library: ctypes.CDLL, name: str) -> None:
    integer, rest = name[2:].split("2")
    kind, mode = rest.split("_")
    source, dtype = INTEGERS[integer][1], FLOATS[kind][1]
    limits = np.iinfo(source)
    rng = np.random.default_rng(9)
    near = [
        b + d
        for b in (0, 1 << 24, 1 << 31, 1 << 53, limits.min, limits.max, limits.max // 2)
        for d in range(-70, 70)
    ]
    values = np.array(
        [x for x in near if limits.min <= x <= limits.max]
        + rng.integers(limits.min, limits.max, 300, source, True).tolist(),
        source,
    )
    got = call(library, "run" + name, [values], dtype)
    for x, result in zip(values.tolist(), got.tolist(), strict=True):
        if mode == "rn":
            assert result == float(dtype(x)), x
        else:
            assert is_rounded(result, Fraction(x), mode, dtype), x


@pytest.mark.parametrize("mode", MODES)
def test_double_to_float(library: ctypes.CDLL, mode: str) -> None:
    rng = np.random.default_rng(11)
    values = np.concatenate(
        [
            np.ldexp(rng.uniform(-1, 1, 500), rng.integers(-150, 130, 500)),
            [1.0, 0.1, 1e39, -1e39, 1e-46, -1e-46, 0.0],
        ]
    )
    got = call(library, f"run__double2float_{mode}", [values], np.float32)
    if mode == "rn":
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got, values.astype(np.float32))
        return
    for x, result in zip(values.tolist(), got.tolist(), strict=True):
        assert is_rounded(result, Fraction(x), mode, np.float32), x


def test_casts_of_bits() -> None:
    lib = build(
        array_function("hi", "__double2hiint(a)", ["double"], "int")
        + array_function("lo", "__double2loint(a)", ["double"], "int")
        + array_function("join", "__hiloint2double(a, b)", ["int", "int"], "double")
        + array_function("bits", "__float_as_uint(a)", ["float"], "unsigned")
        + array_function("back", "__uint_as_float(a)", ["unsigned"], "float")
        + array_function("whole", "__longlong_as_double(__double_as_longlong(a))", ["double"], "double")
        + array_function("signed_", "__int_as_float(__float_as_int(a))", ["float"], "float")
    )
    x = np.array([0.0, -1.5, 1e300, 5e-324, np.inf])
    hi, lo = call(lib, "hi", [x], np.int32), call(lib, "lo", [x], np.int32)
    np.testing.assert_array_equal(hi.astype(np.int64) << 32 | lo.view(np.uint32), x.view(np.int64))
    np.testing.assert_array_equal(call(lib, "join", [hi, lo], np.float64), x)
    np.testing.assert_array_equal(call(lib, "whole", [x], np.float64), x)
    f = np.array([0.0, -1.5, 1e30, 1e-45, np.inf], np.float32)
    np.testing.assert_array_equal(call(lib, "bits", [f], np.uint32), f.view(np.uint32))
    np.testing.assert_array_equal(call(lib, "back", [f.view(np.uint32)], np.float32), f)
    np.testing.assert_array_equal(call(lib, "signed_", [f], np.float32), f)
