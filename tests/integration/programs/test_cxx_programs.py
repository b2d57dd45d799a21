"""The C++ that kernels are written in (cxx.cu): templates, classes, function tables, control flow, macros."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

rng = np.random.default_rng(6)
F4 = np.float32


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("cxx")


def test_functors_as_template_arguments(module: hmm.RawModule) -> None:
    x, out = rng.integers(-99, 99, (5, 64), np.int32), np.zeros(5, np.int32)
    module.get_function("fold<int, 64>")(5, 64, (x, out))
    np.testing.assert_array_equal(out, x.sum(1))
    y, best = rng.random((3, 128), F4), np.zeros(3, F4)
    module.get_function("fold<float, 128, Larger>")(3, 128, (y, best))
    np.testing.assert_array_equal(best, y.max(1))


def test_lambdas(module: hmm.RawModule) -> None:
    x = np.zeros(1000, F4)
    module.get_function("with_lambdas")(3, 64, (x, x.size, F4(0.5)))
    np.testing.assert_array_equal(x, (np.arange(1000, dtype=F4) + 192) ** 2)


def test_compile_time_computation(module: hmm.RawModule) -> None:
    out = np.zeros(5, np.int32)
    module.get_function("compile_time")(1, 5, (out,))
    assert out.tolist() == [6, 120, 6, 8, 11]


def test_virtual_functions(module: hmm.RawModule) -> None:
    out, t = np.zeros(33, F4), np.arange(33, dtype=F4)
    module.get_function("virtual_calls")(1, 33, (out,))
    square, circle = t * t, 3 * (t + 1) ** 2
    expected = np.where(np.arange(33) % 2 == 0, square + 2 * circle + 1, circle + 2 * square)
    np.testing.assert_array_equal(out, expected)


BODY = np.dtype(
    {
        "names": ["place", "mass", "kind"],
        "formats": [(F4, 3), "f8", "u1"],
        "offsets": [0, 16, 24],
        "itemsize": 32,
    }
)


def test_structures_by_value(module: hmm.RawModule) -> None:
    body, wind = np.zeros((), BODY), np.zeros((), [("at", F4, 3)])
    body["place"], body["mass"], body["kind"], wind["at"] = (1, 2, 3), 5.5, 1, (0.5, 0, -1)
    out = np.zeros(40, BODY)
    module.get_function("by_value")(1, 40, (body[()], wind[()], out))
    t = np.arange(40)
    np.testing.assert_array_equal(out["place"], np.stack([1 + 0.5 * t, 2 + 0 * t, 3 - t], 1))
    assert (out["mass"] == 5.5).all()
    np.testing.assert_array_equal(out["kind"], 1 + t % 2)
    with pytest.raises(hmm.ArgumentError, match=r"argument 1 of by_value, Body body: .*32 bytes are needed"):
        module.get_function("by_value")(1, 1, (wind[()], wind[()], out))


def test_destructors_run_at_every_return(module: hmm.RawModule) -> None:
    x, count = np.arange(1000, dtype=np.int32), np.zeros(1, np.int32)
    x[500:600] *= -1
    module.get_function("destructors")(4, 50, (x, 1000, count))
    expected = 0
    for thread in range(200):
        for value in x[thread::200]:
            if value < 0:
                break
            expected += value % 2
    assert count[0] == expected


def test_tables_of_functions(module: hmm.RawModule) -> None:
    which, a, b = rng.integers(0, 3, 64, np.int32), rng.random(64, F4), rng.random(64, F4)
    out = np.zeros(64, F4)
    module.get_function("function_table")(1, 64, (which, a, b, out))
    np.testing.assert_array_equal(out, np.choose(which, [a + b, a - b, a * b]))
    module.get_function("apply_constant<mul_f>")(1, 64, (a, out))
    np.testing.assert_array_equal(out, 2 * a)


def test_recursion(module: hmm.RawModule) -> None:
    def ackermann(m: int, n: int) -> int:
        if m == 0:
            return n + 1
        return ackermann(m - 1, ackermann(m, n - 1) if n else 1)

    out = np.zeros(15, np.int32)
    module.get_function("recursion")(1, 15, (out,))
    assert out.tolist() == [ackermann(i % 3, i % 5) + 2 * i for i in range(15)]


def test_overloads_and_default_arguments(module: hmm.RawModule) -> None:
    out = np.zeros(7, np.int32)
    module.get_function("overloads")(1, 1, (out,))
    assert out.tolist() == [1, 2, 3, 4, 5, 47, 41]


def test_namespaces_and_mangled_names(module: hmm.RawModule) -> None:
    x, y = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
    t = np.arange(32)
    module.get_function("outer::inner::in_namespace")(1, 32, (x,))
    np.testing.assert_array_equal(x, 4 * t)
    module.get_function("in_namespace")(1, 32, (x,))
    np.testing.assert_array_equal(x, 13 * t)
    module.get_function("mangled")(1, 32, (x, y))
    np.testing.assert_array_equal(y, 40 * t + 3)
    module.get_function("outer::negate<int>")(1, 32, (y,))
    np.testing.assert_array_equal(y, -40 * t - 3)


@pytest.mark.parametrize("block", [32, 64, 37])
def test_switches_around_barriers(module: hmm.RawModule, block: int) -> None:
    code, out = np.array([0, 1, 2, 3, 1, 0, 2, 9, 0], np.int32), np.zeros(block, np.int32)
    module.get_function("machine")(1, block, (code, code.size, out))
    s = np.arange(block)
    for step in code:
        if step == 9:
            break
        s = {0: s + 1, 1: np.roll(s, -1), 2: (s + s[::-1]) ^ 1, 3: s ^ 1}[int(step)]
    np.testing.assert_array_equal(out, s)


def test_goto(module: hmm.RawModule) -> None:
    def collatz(v: int) -> int:
        return 0 if v == 1 else 1 + collatz(3 * v + 1 if v % 2 else v // 2)

    x, steps = np.arange(1, 301, dtype=np.int32), np.zeros(300, np.int32)
    module.get_function("go_to")(5, 64, (x, 300, steps))
    assert steps.tolist() == [collatz(v) for v in x.tolist()]


def test_votes_and_breaks_in_loops(module: hmm.RawModule) -> None:
    x, out = np.zeros(1000, np.int32), np.zeros(1, np.int32)
    x[[400, 700, 710, 900]] = 7
    module.get_function("early_and_late")(1, 64, (x, 1000, out))
    assert out[0] == 900
    x[701] = 7  # two in one round of 64: the search ends there
    module.get_function("early_and_late")(1, 64, (x, 1000, out))
    assert out[0] == 701


def test_macros_options_and_headers(module: hmm.RawModule, capsys: pytest.CaptureFixture[str]) -> None:
    out = np.zeros(5, np.int32)
    module.get_function("macros")(1, 1, (out,))
    assert out.tolist() == [25, 125, 4, 11, 42]
    assert capsys.readouterr().out == "a + b\n"
