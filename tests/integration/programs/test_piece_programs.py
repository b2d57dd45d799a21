"""Locals across barriers (pieces.cu): uniform or not, changed by methods, references and parameters, with constructors."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

t = np.arange(64)
FIVE = np.array((5,), [("v", "i4")])[()]
UP = np.arange(100, dtype=np.int32)
DOWN = np.arange(63, -1, -1, dtype=np.int32)


def counted(n: int) -> np.ndarray:
    pairs, i, j = [], 0, n
    while i < j:
        pairs.append(i * j)
        i, j = i + 1, j - 1
    return sum(pairs) + len(pairs) * t


OUT = object()  # stands for the array of results; by default zeros
CASES: dict[str, tuple[tuple[object, ...], object]] = {
    "again_stale": ((OUT, 16), (t & 15) * 100 + 8),
    "method_changes": ((FIVE, OUT), 5 + t),
    "functor_changes": ((FIVE, OUT), 6 + t),
    "member_by_reference": ((FIVE, OUT), t),
    "reference_local": ((OUT,), 1 + t),
    "parameter_per_thread": ((OUT, 5), t + 5),
    "changed_parameter": ((OUT, 5), t + 105),
    "pointer_steps": ((UP, OUT, 4), 4 * t + 6),
    "const_pointer": ((UP, DOWN, OUT), 63 - t),
    "const_local": ((UP, OUT), 3 * t),
    "default_member": ((OUT,), 15 + 3 * t),
    "uninitialised": ((5, OUT), 7),
    "shadow": ((5, OUT), 5 + t),
    "comma": ((9, OUT), counted(9)),
    "comma_declarators": ((OUT, 5), 1 + 2 * t + 10 * (2 + 2 * t) + 100 * (3 + t)),
    "again_of_again": ((OUT, 5), 6 * t + 11),
    "return_inside": ((40, OUT), np.where(t < 40, 10 * t, -1)),
    "do_while": ((3, OUT), (t + 3) % 64),
    "swap_pointers": ((OUT, 5), (t + 5) % 64),
    "global_in_condition": ((OUT,), 3),
    "enum_condition": ((1, OUT), 2),
    "vectors_and_matrices": ((OUT,), 2 * t + 2),
}


@pytest.mark.parametrize("name", CASES)
def test_locals_across_barriers(space: hmm.AddressSpace, name: str) -> None:
    arguments, expected = CASES[name]
    out = np.zeros(64, np.int32)
    program("pieces").get_function(name)(1, 64, [out if a is OUT else a for a in arguments])
    np.testing.assert_array_equal(out, np.broadcast_to(expected, 64))


@pytest.mark.parametrize(("n", "expected"), [(1, 1 + 0 * t), (2, 2 * (63 - t)), (4, -5 + 0 * t)])
def test_branches_that_all_threads_take(space: hmm.AddressSpace, n: int, expected: np.ndarray) -> None:
    out = np.zeros(64, np.int32)
    program("pieces").get_function("uniform_if")(1, 64, (n, out))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["no_default_constructor", "braces"])
def test_classes_without_default_constructor(space: hmm.AddressSpace, name: str) -> None:
    out = (3 * t).astype(np.int32)
    program("pieces").get_function(name)(1, 64, (out,))
    np.testing.assert_array_equal(out, 4 * t)


def test_destructors_run_once_a_thread(space: hmm.AddressSpace) -> None:
    out, count = np.zeros(40, np.int32), np.zeros(1, np.int32)
    program("pieces").get_function("with_destructor")(3, 40, (out, count))
    assert (out == 1).all() and count[0] == 120


def test_large_locals(space: hmm.AddressSpace) -> None:
    out = np.full(1024, 3, np.int32)
    program("pieces").get_function("large_local")(1, 1024, (out,))
    np.testing.assert_array_equal(out, np.arange(1024) + 3)


def test_two_dimensions(space: hmm.AddressSpace) -> None:
    out = np.zeros((4, 8), np.int32)
    program("pieces").get_function("two_dims")(1, (8, 4), (out,))
    y, x = np.indices((4, 8))
    np.testing.assert_array_equal(out, 7 - x + 10 * (3 - y))
