"""The operations that `bench atomics` measures: each as a kernel in device and in system scope, and what must come out.

A kernel's block performs operations number `first` to `end` one after the other on a word, `stride` elements after the
word of the block before. What the word holds afterwards follows from `start` and `end` alone, if `first` was 0 or the
end of the launch before. Everything here is immutable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import hmmemu as hmm

_O = hmm.AtomicOperation
_LIMIT = 1_000_000  # of atomicInc and atomicDec


@dataclass(frozen=True)
class Case:
    """An operation on a type.

    `call` is its CUDA function with {s} for the scope and `p`, `i` for the word and the operation's number; `dtype`
    is of an element of the word, of which there are `lanes`; `value(n)` is each element after n operations.
    """

    name: str
    type: str
    call: str
    operation: hmm.AtomicOperation
    dtype: str
    value: Callable[[int], float]
    start: int = 0
    lanes: int = 1
    bits: int = 0  # of an operation of the link's; 0: of the dtype

    def routes(self, fallback: str) -> dict[str, str]:
        """The way on every link, by its name."""
        bits = self.bits or 8 * np.dtype(self.dtype).itemsize
        signed = np.dtype(self.dtype).kind == "i"
        lanes = 1 if self.bits else self.lanes
        return {
            link.name: str(link.route(self.operation, bits, signed=signed, lanes=lanes, fallback=fallback))
            for link in hmm.links()
        }

    def kernel(self, scope: str) -> str:
        """The name of the kernel; scope is "device" or "system"."""
        return f"{scope}_{self.name.replace(' ', '_')}"

    def right(self, word: np.ndarray[Any, Any], count: int) -> bool:
        """Whether a word (its elements, as an array of `dtype`) holds what `count` operations make of it."""
        wanted = np.array(self.value(count)).astype(self.dtype)
        first_only = self.bits == 128  # the other elements of a wide word stay zero
        return bool(word[0] == wanted and (word[1:] == (0 if first_only else wanted)).all())


def _integer(name: str, type: str, call: str, operation: hmm.AtomicOperation, **more: Any) -> Case:
    dtype = {"int": "i4", "unsigned": "u4", "long long": "i8", "unsigned long long": "u8"}[type]
    bits = 8 * np.dtype(dtype).itemsize
    value: Callable[[int], int] = more.pop("value")

    def wrapped(n: int) -> int:
        kept = value(n) & (1 << bits) - 1
        return kept - (1 << bits) if dtype[0] == "i" and kept >> bits - 1 else kept

    return Case(f"{name} {type}", type, call, operation, dtype, wrapped, **more)


def _float(type: str, dtype: str, one: str, exact: int, lanes: int = 1) -> Case:
    """Ones are added; a sum that no further one changes stays at `exact`."""
    call = f"atomicAdd{{s}}(p, {one})"
    return Case(f"add {type}", type, call, _O.FLOAT_ADD, dtype, lambda n: min(n, exact), lanes=lanes)


def _wide(name: str, call: str, operation: hmm.AtomicOperation, value: Callable[[int], int]) -> Case:
    return Case(f"{name} uint4", "uint4", call, operation, "u4", value, lanes=4, bits=128)


def _xor_below(n: int) -> int:
    """0 ^ 1 ^ ... ^ (n - 1)."""
    last = n - 1
    return (last, 1, n, 0)[last % 4] if n else 0


_WIDE_CAS = "atomicCAS{s}(p, make_uint4(i, 0, 0, 0), make_uint4(i + 1, 0, 0, 0))"
CASES = (
    _integer("add", "int", "atomicAdd{s}(p, 1)", _O.INTEGER_ADD, value=lambda n: n),
    _integer("add", "unsigned long long", "atomicAdd{s}(p, 1ull)", _O.INTEGER_ADD, value=lambda n: n),
    _float("float", "f4", "1.0f", 1 << 24),
    _float("double", "f8", "1.0", 1 << 53),
    _float("__half", "f2", "__half(1.0f)", 1 << 11),
    _float("__half2", "f2", "__half2(__half(1.0f), __half(1.0f))", 1 << 11, lanes=2),
    _float("float4", "f4", "make_float4(1, 1, 1, 1)", 1 << 24, lanes=4),
    _integer("sub", "int", "atomicSub{s}(p, 1)", _O.INTEGER_ADD, value=lambda n: -n),
    _integer("exch", "int", "atomicExch{s}(p, (int)i)", _O.EXCHANGE, value=lambda n: n - 1),
    _integer(
        "exch",
        "unsigned long long",
        "atomicExch{s}(p, (unsigned long long)i)",
        _O.EXCHANGE,
        value=lambda n: n - 1,
    ),
    _wide("exch", "atomicExch{s}(p, make_uint4(i, 0, 0, 0))", _O.EXCHANGE, lambda n: n - 1),
    _integer("cas", "int", "atomicCAS{s}(p, (int)i, (int)i + 1)", _O.CAS, value=lambda n: n),
    _integer(
        "cas",
        "unsigned long long",
        "atomicCAS{s}(p, (unsigned long long)i, i + 1ull)",
        _O.CAS,
        value=lambda n: n,
    ),
    _wide("cas", _WIDE_CAS, _O.CAS, lambda n: n),
    _integer("min", "int", "atomicMin{s}(p, (int)-i)", _O.INTEGER_MIN, value=lambda n: 1 - n),
    _integer("min", "long long", "atomicMin{s}(p, (long long)-i)", _O.INTEGER_MIN, value=lambda n: 1 - n),
    _integer("max", "int", "atomicMax{s}(p, (int)i)", _O.INTEGER_MAX, value=lambda n: n - 1),
    _integer(
        "max",
        "unsigned long long",
        "atomicMax{s}(p, (unsigned long long)i)",
        _O.INTEGER_MAX,
        value=lambda n: n - 1,
    ),
    _integer(
        "inc",
        "unsigned",
        f"atomicInc{{s}}(p, {_LIMIT}u)",
        _O.INTEGER_INCREMENT,
        value=lambda n: n % (_LIMIT + 1),
    ),
    _integer(
        "dec",
        "unsigned",
        f"atomicDec{{s}}(p, {_LIMIT}u)",
        _O.INTEGER_DECREMENT,
        value=lambda n: -n % (_LIMIT + 1),
    ),
    *(
        _integer(name, type, f"atomic{name.title()}{{s}}(p, {operand})", operation, value=value, start=start)
        for type in ("int", "unsigned long long")
        for name, operation, operand, start, value in (
            ("and", _O.AND, f"({type})~i", -1, lambda n: ~((1 << (n - 1).bit_length()) - 1)),
            ("or", _O.OR, f"({type})i", 0, lambda n: (1 << (n - 1).bit_length()) - 1),
            ("xor", _O.XOR, f"({type})i", 0, _xor_below),
        )
    ),
)

_KERNEL = """extern "C" __global__ void %s(%s* x, long long first, long long end, long long stride) {
  %s* p = x + blockIdx.x * stride;
  for (long long i = first; i < end; ++i) %s;
}
"""
# Each page of 1024 words is used in its turn.
_PAGES = """extern "C" __global__ void pages(int* x, int pages, int count) {
  for (int page = 0; page < pages; ++page)
    for (int i = 0; i < count; ++i) atomicAdd_system(x + 1024 * page, 1);
}
"""


def source() -> str:
    """CUDA C++ with the kernels of all cases, in both scopes, and `pages`."""
    kernels = (
        _KERNEL % (case.kernel(scope), case.type, case.type, case.call.format(s=suffix))
        for case in CASES
        for scope, suffix in (("device", ""), ("system", "_system"))
    )
    return "#include <cuda_fp16.h>\n" + "".join(kernels) + _PAGES
