"""Integer intrinsics and packed (SIMD-in-a-word) intrinsics against arithmetic in Python's integers, exactly."""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from cudalib import array_function, build, call

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
C_TYPES = {"i": "int", "u": "unsigned int", "I": "long long", "U": "unsigned long long"}
DTYPES = {"i": np.int32, "u": np.uint32, "I": np.int64, "U": np.uint64}
EDGES32 = [
    0,
    1,
    2,
    3,
    31,
    32,
    33,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0x80000001,
    0xFFFFFFFE,
    M32,
]
EDGES64 = [*EDGES32, 1 << 32, 0x7FFFFFFFFFFFFFFF, 1 << 63, M64]


def signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def byte_perm(x: int, y: int, s: int) -> int:
    source = (y << 32 | x).to_bytes(8, "little")
    return int.from_bytes(bytes(source[s >> 4 * i & 7] for i in range(4)), "little")


def nth_set(mask: int, base: int, offset: int) -> int:
    if base > 31:
        return M32
    if offset == 0:
        return base if mask >> base & 1 else M32
    order = range(base, 32) if offset > 0 else range(base, -1, -1)
    found = [bit for bit in order if mask >> bit & 1]
    return found[abs(offset) - 1] if len(found) >= abs(offset) else M32


def lanes(x: int, bits: int, is_signed: bool) -> list[int]:
    parts = [x >> shift & ((1 << bits) - 1) for shift in range(0, 32, bits)]
    return [signed(part, bits) for part in parts] if is_signed else parts


def dot(a: int, b: int, count: int, bits: int, is_signed: bool, shift: int = 0) -> int:
    return sum(
        x * y
        for x, y in zip(lanes(a, bits, is_signed)[:count], lanes(b >> shift, 8, is_signed), strict=False)
    )


# name: (kinds of the arguments, kind of the result, reference)
FUNCTIONS: dict[str, tuple[str, str, Callable[..., int]]] = {
    "__popc": ("u", "i", lambda x: x.bit_count()),
    "__popcll": ("U", "i", lambda x: x.bit_count()),
    "__clz": ("i", "i", lambda x: 32 - (x & M32).bit_length()),
    "__clzll": ("I", "i", lambda x: 64 - (x & M64).bit_length()),
    "__ffs": ("i", "i", lambda x: (x & -x & M32).bit_length()),
    "__ffsll": ("I", "i", lambda x: (x & -x & M64).bit_length()),
    "__brev": ("u", "u", lambda x: int(f"{x:032b}"[::-1], 2)),
    "__brevll": ("U", "U", lambda x: int(f"{x:064b}"[::-1], 2)),
    "__fns": ("uui", "u", nth_set),
    "__byte_perm": ("uuu", "u", byte_perm),
    "__funnelshift_l": ("uuu", "u", lambda lo, hi, s: (hi << 32 | lo) << (s & 31) >> 32),
    "__funnelshift_lc": ("uuu", "u", lambda lo, hi, s: (hi << 32 | lo) << min(s, 32) >> 32),
    "__funnelshift_r": ("uuu", "u", lambda lo, hi, s: (hi << 32 | lo) >> (s & 31)),
    "__funnelshift_rc": ("uuu", "u", lambda lo, hi, s: (hi << 32 | lo) >> min(s, 32)),
    "__mulhi": ("ii", "i", lambda x, y: x * y >> 32),
    "__umulhi": ("uu", "u", lambda x, y: x * y >> 32),
    "__mul64hi": ("II", "I", lambda x, y: x * y >> 64),
    "__umul64hi": ("UU", "U", lambda x, y: x * y >> 64),
    "__mul24": ("ii", "i", lambda x, y: signed(x, 24) * signed(y, 24)),
    "__umul24": ("uu", "u", lambda x, y: (x & 0xFFFFFF) * (y & 0xFFFFFF)),
    "__sad": ("iiu", "u", lambda x, y, z: abs(x - y) + z),
    "__usad": ("uuu", "u", lambda x, y, z: abs(x - y) + z),
    "__hadd": ("ii", "i", lambda x, y: (x + y) >> 1),
    "__rhadd": ("ii", "i", lambda x, y: (x + y + 1) >> 1),
    "__uhadd": ("uu", "u", lambda x, y: (x + y) >> 1),
    "__urhadd": ("uu", "u", lambda x, y: (x + y + 1) >> 1),
    "__dp4a": ("iii", "i", lambda a, b, c: c + dot(a, b, 4, 8, True)),
    "__dp2a_lo": ("iii", "i", lambda a, b, c: c + dot(a, b, 2, 16, True)),
    "__dp2a_hi": ("iii", "i", lambda a, b, c: c + dot(a, b, 2, 16, True, 16)),
    "umin": ("uu", "u", min),
    "umax": ("uu", "u", max),
    "llmin": ("II", "I", min),
    "ullmax": ("UU", "U", max),
    "min": ("ii", "i", min),
    "max": ("uu", "u", max),
    "abs": ("i", "i", abs),
    "llabs": ("I", "I", abs),
}


def clamp(x: int, low: int, high: int) -> int:
    return max(low, min(x, high))


def packed_functions() -> dict[str, tuple[str, str, Callable[..., int]]]:
    made: dict[str, tuple[str, str, Callable[..., int]]] = {}
    for count, bits in ((2, 16), (4, 8)):
        top, mask = 1 << (bits - 1), (1 << bits) - 1
        binary: dict[str, tuple[bool, Callable[[int, int], int]]] = {
            "add": (False, lambda x, y: x + y),
            "addss": (True, lambda x, y, top=top: clamp(x + y, -top, top - 1)),
            "addus": (False, lambda x, y, mask=mask: clamp(x + y, 0, mask)),
            "sub": (False, lambda x, y: x - y),
            "subss": (True, lambda x, y, top=top: clamp(x - y, -top, top - 1)),
            "subus": (False, lambda x, y, mask=mask: clamp(x - y, 0, mask)),
            # NVRTC's own code: the floor of the mean, plus one if that is not negative and the sum is odd
            "avgs": (True, lambda x, y: ((x + y) >> 1) + ((x + y) & 1 if x + y >= 0 else 0)),
            "avgu": (False, lambda x, y: (x + y + 1) >> 1),
            "haddu": (False, lambda x, y: (x + y) >> 1),
            "absdiffs": (True, lambda x, y: abs(x - y)),
            "absdiffu": (False, lambda x, y: abs(x - y)),
            "maxs": (True, max),
            "maxu": (False, max),
            "mins": (True, min),
            "minu": (False, min),
        }
        relations: dict[str, tuple[bool, Callable[[int, int], bool]]] = {
            "eq": (False, lambda x, y: x == y),
            "ne": (False, lambda x, y: x != y),
        }
        for suffix, kind in (("s", True), ("u", False)):
            relations |= {
                "ge" + suffix: (kind, lambda x, y: x >= y),
                "gt" + suffix: (kind, lambda x, y: x > y),
            }
            relations |= {
                "le" + suffix: (kind, lambda x, y: x <= y),
                "lt" + suffix: (kind, lambda x, y: x < y),
            }
        for name, (kind, relation) in relations.items():
            binary["cmp" + name] = (kind, lambda x, y, relation=relation: -int(relation(x, y)))
            binary["set" + name] = (kind, lambda x, y, relation=relation: int(relation(x, y)))
        for name, (kind, f) in binary.items():
            made[f"__v{name}{count}"] = ("uu", "u", _per_lane(f, bits, kind))
        for name, f in {
            "abs": abs,
            "neg": lambda x: -x,
            "absss": lambda x, top=top: min(abs(x), top - 1),
            "negss": lambda x, top=top: min(-x, top - 1),
        }.items():
            made[f"__v{name}{count}"] = ("u", "u", _per_lane(f, bits, True))
        for suffix, kind in (("s", True), ("u", False)):
            made[f"__vsad{suffix}{count}"] = (
                "uu",
                "u",
                lambda a, b, bits=bits, kind=kind: sum(
                    abs(x - y) for x, y in zip(lanes(a, bits, kind), lanes(b, bits, kind), strict=True)
                ),
            )
    return made


def _per_lane(f: Callable[..., int], bits: int, is_signed: bool) -> Callable[..., int]:
    def apply(*words: int) -> int:
        parts = [lanes(word, bits, is_signed) for word in words]
        results = [f(*values) & ((1 << bits) - 1) for values in zip(*parts, strict=True)]
        return sum(value << bits * i for i, value in enumerate(results))

    return apply


def wrapped(x: int, bits: int, is_signed: bool) -> int:
    return signed(x, bits) if is_signed else x & ((1 << bits) - 1)


def dpx_functions() -> dict[str, tuple[str, str, Callable[..., int]]]:
    made: dict[str, tuple[str, str, Callable[..., int]]] = {}
    for suffix, bits, is_signed in (
        ("s32", 32, True),
        ("u32", 32, False),
        ("s16x2", 16, True),
        ("u16x2", 16, False),
    ):

        def sum_(a: int, b: int, bits: int = bits, is_signed: bool = is_signed) -> int:
            return wrapped(a + b, bits, is_signed)

        three: dict[str, Callable[..., int]] = {
            "max3": lambda a, b, c: max(a, b, c),
            "min3": lambda a, b, c: min(a, b, c),
            "addmax": lambda a, b, c, sum_=sum_: max(sum_(a, b), c),
            "addmin": lambda a, b, c, sum_=sum_: min(sum_(a, b), c),
        }
        two = {"max": lambda a, b: max(a, b, 0), "min": lambda a, b: max(min(a, b), 0)}
        kind = "u" if bits == 16 else "i" if is_signed else "u"
        for name, f in three.items():
            made[f"__vi{name}_{suffix}"] = (
                kind * 3,
                kind,
                f if bits == 32 else _per_lane(f, bits, is_signed),
            )
        if is_signed:
            relu = {
                f"__vi{name}_{suffix}_relu": (3, lambda *v, f=f: max(f(*v), 0)) for name, f in three.items()
            }
            relu |= {f"__vi{name}_{suffix}_relu": (2, f) for name, f in two.items()}
            for name, (count, f) in relu.items():
                made[name] = (kind * count, kind, f if bits == 32 else _per_lane(f, bits, is_signed))
    return made


FUNCTIONS |= packed_functions() | dpx_functions()


def expression(name: str) -> tuple[str, list[str], str]:
    kinds, result, _ = FUNCTIONS[name]
    return f"{name}({', '.join('abc'[: len(kinds)])})", [C_TYPES[kind] for kind in kinds], C_TYPES[result]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return build("".join(array_function("run" + name, *expression(name)) for name in FUNCTIONS))


def operands(kinds: str) -> list[tuple[int, ...]]:
    rng = random.Random(7)
    edges = [EDGES64 if kind in "IU" else EDGES32 for kind in kinds]
    tuples = list(itertools.product(*edges))
    rng.shuffle(tuples)
    drawn = [tuple(rng.getrandbits(64 if kind in "IU" else 32) for kind in kinds) for _ in range(300)]
    small = [
        tuple(rng.getrandbits(6) if i == len(kinds) - 1 else rng.getrandbits(32) for i in range(len(kinds)))
        for _ in range(100)
    ]
    bits = [64 if kind in "IU" else 32 for kind in kinds]
    return [
        tuple(
            signed(x, b) if kind in "iI" else x & ((1 << b) - 1)
            for x, kind, b in zip(values, kinds, bits, strict=True)
        )
        for values in tuples[:600] + drawn + small
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exact(library: ctypes.CDLL, name: str) -> None:
    kinds, result, reference = FUNCTIONS[name]
    values = operands(kinds)
    columns = [
        np.array(column, DTYPES[kind]) for column, kind in zip(zip(*values, strict=True), kinds, strict=True)
    ]
    got = call(library, "run" + name, columns, DTYPES[result])
    bits = 64 if result in "IU" else 32
    for value, arguments in zip(got.tolist(), values, strict=True):
        wanted = reference(*arguments)
        assert value & ((1 << bits) - 1) == wanted & ((1 << bits) - 1), f"{name}{arguments}"


def test_which_of_two() -> None:
    lib = build(
        array_function("top", "__vibmax_s32(a, b, &f) * 2 + f", ["int", "int"], "int").replace(
            "out[i] =", "bool f; out[i] ="
        )
        + array_function(
            "low", "__vibmin_u32(a, b, &f) * 2 + f", ["unsigned", "unsigned"], "unsigned"
        ).replace("out[i] =", "bool f; out[i] =")
        + array_function(
            "pair", "__vibmax_s16x2(a, b, &h, &l) ^ (h << 15 | l << 14)", ["unsigned", "unsigned"], "unsigned"
        ).replace("out[i] =", "bool h, l; out[i] =")
    )
    a, b = np.array([3, -5, 7, 7], np.int32), np.array([4, -6, 7, -9], np.int32)
    assert call(lib, "top", [a, b], np.int32).tolist() == [8, -9, 15, 15]
    assert call(lib, "low", [abs(a).view(np.uint32), abs(b).view(np.uint32)], np.uint32).tolist() == [
        7,
        11,
        15,
        15,
    ]
    pairs = np.array([0x00050001, 0xFFFF0004], np.uint32), np.array([0x00030002, 0x00010003], np.uint32)
    assert call(lib, "pair", list(pairs), np.uint32).tolist() == [0x00050002 ^ 0x8000, 0x00010004 ^ 0x4000]
