"""Arguments of repeated launches (native/bind/arguments.cpp): what `arguments.pack` makes of them, or "not here"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hmmemu as hmm
from hmmemu.arguments import pack

SOURCE = r"""
extern "C" __global__ void all(float* f, const float* cf, void* v, int** pp, const volatile unsigned* cu, int i,
                               unsigned u, long long l, unsigned long long ul, signed char c, unsigned char uc,
                               short s, bool b, float x, double d) {}
struct pair { int a, b; };
extern "C" __global__ void structure(pair p) {}
"""


class Rig:
    """The kernel on a device, and arguments that are right."""

    def __init__(self, space: hmm.AddressSpace) -> None:
        self.device = space.devices[0]
        self.module = hmm.RawModule(SOURCE)
        self.shared = space.zeros(64, np.float32)
        self.registered = space.register(np.zeros(64, np.float32))
        self.unknown = np.zeros(64, np.float32)
        pointers = (self.shared, self.registered, self.unknown, None, space.zeros(8, np.uint32))
        self.right = (*pointers, 1, 2, 3, 4, -5, 6, 7, True, np.float32(1.5), 2.5)
        kernel = self.module.get_function("all")
        kernel(1, 1, self.right, device=self.device)
        with self.device:
            self.loaded = kernel._loaded_now()
        self.repeated = self.device._repeated[kernel]

    def replace(self, at: int, value: Any) -> tuple[Any, ...]:
        return (*self.right[:at], value, *self.right[at + 1 :])

    def pack(self, args: tuple[Any, ...]) -> Any:
        """As the other way does."""
        packed = pack("all", self.loaded.parameters, self.loaded.parameter_bytes, args)
        return packed.block, [(p.begin, p.end, p.writes, False) for p in packed.pointers]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with hmm.AddressSpace(timeout=60, workers=1) as space:
        yield Rig(space)


SCALARS = [np.dtype(c).type for c in "?bBhHiIlLqQefdgFD"]
EDGES = [s * 2**n + d for n in (0, 7, 8, 15, 16, 31, 32, 62) for s in (1, -1) for d in (-1, 0, 1)]
NUMBERS: list[Any] = [
    *EDGES,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    True,
    False,
    1.5,
    1j,
    None,
]
OTHERS: list[Any] = [
    *("x", b"12345678", np.str_("a"), np.timedelta64(3, "s"), np.zeros(1, "i4,i4")[0], object()),
    *(kind(edge % 100) for kind in SCALARS for edge in EDGES),
    *(np.array([edge]).view(kind)[0] for kind in "bBhHiIlLqQ" for edge in EDGES if -(2**63) <= edge < 2**63),
]
DTYPES = ["f4", "f4", "f8", "f2", "i4", "u4", "u1", "i8", "u8", "?", ">f4", "c8", "i4,i4", "M8[s]", "O"]


@st.composite
def arrays(draw: st.DrawFn, memory: np.ndarray[Any, Any]) -> Any:
    """Views of the memory, of all sorts."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    array: Any = np.zeros(8, dtype) if dtype.hasobject else memory.view(dtype)
    array = array[draw(st.integers(0, 3)) :: draw(st.sampled_from([1, 2, -1, -3]))]
    shape = draw(st.sampled_from(["", "matrix", "column", "none", "one"]))
    array = {"": array, "matrix": array.reshape(-1, 1), "none": array[:0], "one": array[:1].reshape(())}.get(
        shape, array.reshape(-1, 1)[:, 0]
    )
    array.flags.writeable = draw(st.booleans())
    wrap = draw(st.sampled_from([None, None, hmm.In, hmm.InOut, hmm.Out]))
    return array if wrap is None else wrap(array)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_same_or_not_here(rig: Rig, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rig.right) - 1))
    memory = data.draw(st.sampled_from([rig.shared, rig.registered, rig.unknown]))
    args = rig.replace(at, data.draw(st.sampled_from(NUMBERS) | st.sampled_from(OTHERS) | arrays(memory)))
    if (packed := rig.repeated.pack(args)) is not None:
        assert packed == rig.pack(args)  # which raises nothing


def test_what_nearly_all_arguments_are_is_packed_here(rig: Rig) -> None:
    flat = rig.shared
    usual = {
        0: [
            flat,
            flat[3:],
            flat[::-2],
            flat.reshape(8, 8).T,
            flat.view(np.uint8),
            hmm.InOut(flat),
            hmm.In(flat),
            None,
        ],
        1: [flat, flat[:1], np.broadcast_to(flat, (2, 64)), hmm.In(flat)],
        2: [flat.view(np.complex64), flat.view(np.int64), rig.registered[2:]],
        3: [flat.view(np.int64)],
        4: [rig.right[4], rig.right[4].view(np.int32)],
        5: [0, -(2**31), 2**31 - 1, np.int32(-4), np.uint32(5)],
        6: [2**32 - 1, -1, np.uint32(2**32 - 1), np.int32(-1)],
        7: [-(2**63), 2**63 - 1, np.int64(4), np.longlong(4)],
        8: [2**63 - 1, np.uint64(2**64 - 1), np.int64(-1)],
        9: [-128, 127, np.int8(-3)],
        10: [255, np.uint8(200)],
        11: [-(2**15), np.int16(4)],
        12: [True, False, np.bool_(True)],
        13: [np.float32(-0.0), np.float32("nan")],
        14: [1.0, float("inf"), np.float64(3)],
    }
    for at, values in usual.items():
        for value in values:
            args = rig.replace(at, value)
            assert rig.repeated.pack(args) == rig.pack(args), (at, value)


def test_what_is_not_packed_here(rig: Rig) -> None:
    for args in ((), (*rig.right, 1), rig.right[:-1], list(rig.right)):
        assert rig.repeated.pack(args) is None
    shared = rig.shared
    for at, value in [
        (0, shared[:0]),
        (0, hmm.Out(shared)),  # its pages may be discarded
        (0, shared.view(np.recarray)),  # subclasses may be anything
        (0, 0x1000),
        (5, np.uint32(2**31)),
        (5, 2**31),
        (5, True),
        (8, 2**63),
        (13, 1.5),
    ]:
        assert rig.repeated.pack(rig.replace(at, value)) is None


def test_structures_are_not_packed_here(rig: Rig) -> None:
    kernel = rig.module.get_function("structure")
    pair = np.zeros(1, "i4,i4")[0]
    for _ in range(2):
        kernel(1, 1, (pair,), device=rig.device)
    assert rig.device._repeated[kernel].pack((pair,)) is None
