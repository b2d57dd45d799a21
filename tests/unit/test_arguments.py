"""Argument rules: what becomes which bytes, and what is told by name."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.arguments import Parameter, pack

POINTER = {"kind": "pointer", "size": 8, "is_signed": False}
INT = {"type": "int", "kind": "integer", "size": 4, "is_signed": True}


def parameter(name: str = "p", **fields: Any) -> Parameter:
    defaults = {"type": "?", "offset": 0, "pointee_const": False, "pointee_size": 0, "is_signed": False}
    return Parameter(name=name, **{**defaults, **fields})


def one(value: Any, **fields: Any) -> bytes:
    p = parameter(**fields)
    return pack("k", [p], p.size, [value]).block


def test_every_argument_has_its_place() -> None:
    parameters = [
        parameter("x", type="float*", pointee_size=4, **POINTER),
        parameter("n", **{**INT, "offset": 8}),
        parameter("a", type="double", kind="floating", size=8, offset=16),
    ]
    x = np.zeros(3, np.float32)
    packed = pack("k", parameters, 24, (x, 7, 2.5))
    assert packed.block == struct.pack("<Qi4xd", x.ctypes.data, 7, 2.5)
    assert packed.pointers[0].array is x and packed.pointers[0].writes


@pytest.mark.parametrize(
    ("value", "fields", "raw"),
    [
        (None, {"type": "int*", **POINTER}, bytes(8)),
        (0x1234, {"type": "int*", **POINTER}, struct.pack("<Q", 0x1234)),
        (np.uint64(5), {"type": "int*", **POINTER}, struct.pack("<Q", 5)),
        (-3, INT, struct.pack("<i", -3)),
        (np.int32(-3), INT, struct.pack("<i", -3)),
        (np.uint32(7), INT, struct.pack("<I", 7)),
        (255, {"type": "unsigned char", "kind": "integer", "size": 1}, b"\xff"),
        (2**63, {"type": "unsigned long long", "kind": "integer", "size": 8}, struct.pack("<Q", 2**63)),
        (True, {"type": "bool", "kind": "bool", "size": 1}, b"\x01"),
        (np.bool_(False), {"type": "bool", "kind": "bool", "size": 1}, b"\x00"),
        (np.float32(1.5), {"type": "float", "kind": "floating", "size": 4}, struct.pack("<f", 1.5)),
        (1.5, {"type": "double", "kind": "floating", "size": 8}, struct.pack("<d", 1.5)),
        (np.complex64(1 + 2j), {"type": "float2", "kind": "other", "size": 8}, struct.pack("<ff", 1, 2)),
        (ctypes.c_int * 2, None, None),
    ],
)
def test_bytes(value: Any, fields: dict[str, Any] | None, raw: bytes | None) -> None:
    if fields is None:  # a ctypes structure by value
        value, fields, raw = (
            value(3, 4),
            {"type": "Pair", "kind": "other", "size": 8},
            struct.pack("<ii", 3, 4),
        )
    assert one(value, **fields) == raw


@pytest.mark.parametrize(
    ("value", "fields", "message"),
    [
        (2**31, INT, "out of that type's range"),
        (np.int64(1), INT, r"numpy.int64.*pass numpy.int32\(value\)"),
        (1.0, INT, r"a float does not fit; pass numpy.int32\(value\)"),
        (1.0, {"type": "float", "kind": "floating", "size": 4}, r"pass numpy.float32\(value\)"),
        (1, {"type": "float", "kind": "floating", "size": 4}, r"an int does not fit; pass numpy.float32"),
        (None, INT, "None stands for a null pointer"),
        (np.zeros(3), INT, "a scalar is needed, not an array"),
        ("text", INT, "cannot be passed"),
        (2.5, {"type": "float*", **POINTER}, "an array, an address or None is needed, not a float"),
        (True, {"type": "float*", **POINTER}, "not a bool"),
        ([1, 2], {"type": "float*", **POINTER}, "not a list"),
        (np.zeros(3), {"type": "float*", "pointee_size": 4, **POINTER}, r"float\* p: .*float64.*astype"),
        (np.zeros(3, np.int32), {"type": "const float *", "pointee_size": 4, **POINTER}, "not of that type"),
        (np.zeros(3, np.float32), {"type": "int*", "pointee_size": 4, **POINTER}, "not of that type"),
        (
            np.zeros(3, ">f4"),
            {"type": "float*", "pointee_size": 4, **POINTER},
            r"other order.*array\.astype\(array\.dtype\.newbyteorder\('='\)\)",
        ),
        (-1, {"type": "int*", **POINTER}, "-1 is no address"),
        (2**64, {"type": "int*", **POINTER}, "18446744073709551616 is no address"),
        (np.int64(-5), {"type": "int*", **POINTER}, "-5 is no address"),
        (
            np.array((1, 2), [("a", ">i4"), ("b", ">i4")])[()],
            {"type": "Pair", "kind": "other", "size": 8},
            r"other order.*value\.astype\(value\.dtype\.newbyteorder\('='\)\)",
        ),
        (
            np.array((object(),), [("a", object)])[()],
            {"type": "Pair", "kind": "other", "size": 8},
            "holds Python objects",
        ),
        (np.zeros(3, bool), {"type": "float*", "pointee_size": 4, **POINTER}, "not of that type"),
        (np.array([object()]), {"type": "void*", **POINTER}, "Python objects"),
        (np.complex64(1), {"type": "float4", "kind": "other", "size": 16}, "16 bytes are needed"),
    ],
)
def test_what_is_told(value: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(hmm.ArgumentError, match=message) as caught:
        one(value, **fields)
    assert "argument 1 of k" in str(caught.value)


def test_the_advice_for_swapped_structures_works() -> None:
    swapped = np.array([(1, 2.5)], [("a", ">i4"), ("b", ">f4")])
    fields = {"type": "Pair", "kind": "other", "size": 8}
    value = swapped[0].astype(swapped.dtype.newbyteorder("="))
    assert one(value, **fields) == struct.pack("<if", 1, 2.5)
    one(swapped.astype(swapped.dtype.newbyteorder("=")), type="Pair*", pointee_size=8, **POINTER)


def test_wrong_number() -> None:
    with pytest.raises(hmm.ArgumentError, match=r"k takes 1 argument \(int n\), 2 were given"):
        pack("k", [parameter("n", **INT)], 4, (1, 2))


def test_raw_bytes_and_structures_pass_for_any_type() -> None:
    for array in (np.zeros(8, np.uint8), np.zeros(2, [("a", "i4"), ("b", "f8")])):
        one(array, type="float*", pointee_size=4, **POINTER)


@pytest.mark.parametrize(
    ("type_", "size", "good", "bad"),
    [
        ("float2*", 8, ["f4", "f8", "i2"], []),
        ("const Node*", 8, ["i4", "f8"], []),
        ("T*", 4, ["f4", "f8"], []),
        ("float** rows", 8, ["u8", "i8"], ["f4", "f8", "u4"]),
        ("int* const*", 8, ["u8"], ["i4"]),
        ("unsigned long long*", 8, ["u8", "i8", "u1"], ["u4", "f8", "i1"]),
        ("const std::uint16_t* __restrict__", 2, ["u2", "i2"], ["u4", "f2"]),
        ("char*", 1, ["i1", "u1", "?"], ["i2", "f4"]),
        ("bool*", 1, ["?", "u1"], []),
        ("int*", 4, ["i4"], ["?"]),
        ("volatile double*", 8, ["f8", "u1"], ["f4", "i8"]),
    ],
)
def test_element_types(type_: str, size: int, good: list[str], bad: list[str]) -> None:
    fields = {"type": type_, "pointee_size": size, **POINTER}
    for code in good:
        one(np.zeros(3, code), **fields)
    for code in bad:
        with pytest.raises(hmm.ArgumentError, match="not of that type"):
            one(np.zeros(3, code), **fields)


def test_intents() -> None:
    x = np.zeros(3, np.float32)
    const, plain = (
        {"type": t, "pointee_const": c, "pointee_size": 4, **POINTER}
        for t, c in (("const float*", True), ("float*", False))
    )

    def writes(value: Any, fields: dict[str, Any]) -> tuple[bool, bool]:
        (pointer,) = pack("k", [parameter(**fields)], 8, [value]).pointers
        return pointer.writes, pointer.discards

    assert writes(x, const) == (False, False)
    assert writes(x, plain) == (True, False)
    assert writes(hmm.In(x), plain) == (False, False)
    assert writes(hmm.InOut(x), const) == (True, False)
    assert writes(hmm.Out(x), plain) == (True, True)
    x.flags.writeable = False
    assert writes(hmm.In(x), plain) == (False, False)
    with pytest.raises(hmm.ArgumentError, match=r"read-only.*hmm\.In"):
        writes(x, plain)
    with pytest.raises(hmm.ArgumentError, match="wraps a numpy array, not int"):
        hmm.In(3)  # type: ignore[arg-type]
