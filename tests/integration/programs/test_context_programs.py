"""Indices, barriers and lanes used where no parameter reaches (contexts.cu): functors, members, lambdas, pointers."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

t = np.arange(64)
ONE_INT = np.array((3,), [("by", "i4")])[()]


def run(name: str, *arguments: object, grid: int = 1, block: int = 64, shared: int = 0) -> np.ndarray:
    out = np.zeros(64, np.int32)
    program("contexts").get_function(name)(grid, block, (out, *arguments), shared_mem=shared)
    return out


def test_functors_known_by_template_arguments_only(space: hmm.AddressSpace) -> None:
    np.testing.assert_array_equal(run("apply<Shifted>", ONE_INT), 3 * t + 3)
    np.testing.assert_array_equal(run("apply<>", ONE_INT), 2 * (63 - t))
    np.testing.assert_array_equal(run("apply<Seventh>", ONE_INT), 2 * (t // 32 * 32 + 7))


def test_members_arguments_and_operators(space: hmm.AddressSpace) -> None:
    np.testing.assert_array_equal(run("members", grid=2, block=32), 10 * t + 2)
    np.testing.assert_array_equal(run("arguments"), t + 3)
    np.testing.assert_array_equal(run("operators"), t + 5 + 64 + t % 2 + (t < 5))


def test_inheritance(space: hmm.AddressSpace) -> None:
    np.testing.assert_array_equal(run("inherited"), 3 * (63 - t) + 64 + 1)


def test_lambdas_and_function_pointers(space: hmm.AddressSpace) -> None:
    np.testing.assert_array_equal(run("closures"), 63 + t + 64 + 128 + 5 + t)


@pytest.mark.parametrize("name", ["reverse<float>", "reverse<double>", "reverse<int>"])
def test_dynamic_shared_memory_by_type(space: hmm.AddressSpace, name: str) -> None:
    np.testing.assert_array_equal(run(name, shared=512), 63 - t)


def test_a_barrier_in_a_recursion(space: hmm.AddressSpace) -> None:
    np.testing.assert_array_equal(run("recursive"), (t + 6) % 64)


def test_a_frame_larger_than_the_stack_is_told(space: hmm.AddressSpace) -> None:
    with pytest.raises(hmm.KernelFault, match=r"kernel large_frame.*a thread's stack is full"):
        run("large_frame", 30000)
