"""`hmm.atomic_add` and the other operations on an array of their own: results, and what they refuse."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hmmemu as hmm
import hmmemu.space as space_module

INTEGERS = [np.dtype(name) for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
FLOATS = [np.dtype(name) for name in ("f2", "f4", "f8")]

# What each writes, by numpy's arithmetic, which wraps as CUDA's does.
WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "store": lambda old, v: v,
    "exch": lambda old, v: v,
    "add": lambda old, v: old + v,
    "sub": lambda old, v: old - v,
    "min": lambda old, v: v if v < old else old,
    "max": lambda old, v: v if v > old else old,
    "and": lambda old, v: old & v,
    "or": lambda old, v: old | v,
    "xor": lambda old, v: old ^ v,
    "inc": lambda old, v: old.dtype.type(0) if old >= v else old + old.dtype.type(1),
    "dec": lambda old, v: v if old == 0 or old > v else old - old.dtype.type(1),
}


def operate(name: str, *arguments: Any) -> Any:
    return getattr(hmm, f"atomic_{name}")(*arguments)


def takes(name: str, dtype: np.dtype[Any]) -> bool:
    if name in ("inc", "dec"):
        return dtype.kind == "u"
    return dtype.kind != "f" or name not in ("and", "or", "xor")


def samples(dtype: np.dtype[Any]) -> np.ndarray:
    """The limits of a type, what lies beside them, and some values in between."""
    if dtype.kind == "f":
        info = np.finfo(dtype)
        values = [0, -0.0, 1, -1.5, info.max, info.min, info.tiny, info.smallest_subnormal, np.inf, np.nan]
        return np.array([*values, *np.random.default_rng(1).normal(0, 100, 6)]).astype(dtype)
    limits = np.iinfo(dtype)
    near = [limits.min, limits.min + 1, limits.max - 1, limits.max, 0, 1, 5, 100]
    return np.array(near + ([-1, -100] if dtype.kind == "i" else []), dtype)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=str)
def test_what_is_written_and_returned(dtype: np.dtype[Any]) -> None:
    guard = np.array([samples(dtype)[3]] * 3)  # neighbours stay as they are
    for name, writes in WRITES.items():
        if not takes(name, dtype):
            continue
        for old in samples(dtype):
            for value in samples(dtype):
                x = guard.copy()
                x[1] = old
                returned = operate(name, x, 1, value)
                with np.errstate(all="ignore"):
                    wanted = np.array([guard[0], writes(old, value), guard[2]], dtype)
                assert np.array_equal(x, wanted, equal_nan=dtype.kind == "f"), (name, old, value, x)
                if name == "store":
                    assert returned is None
                else:
                    assert type(returned) is dtype.type and returned.tobytes() == old.tobytes()


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS], ids=str)
def test_load_and_compare_and_swap(dtype: np.dtype[Any]) -> None:
    for old in samples(dtype):
        x = np.array([0, old, 0], dtype)
        loaded = hmm.atomic_load(x, 1)
        assert type(loaded) is dtype.type and loaded.tobytes() == old.tobytes()
        for compare in samples(dtype):
            x[1] = old
            assert hmm.atomic_cas(x, 1, compare, 3).tobytes() == old.tobytes()
            same = compare.tobytes() == old.tobytes()  # by bits: 0.0 is not -0.0
            assert x[1].tobytes() == (dtype.type(3) if same else old).tobytes() and x[0] == x[2] == 0


def test_sums_of_half_floats_are_rounded_once() -> None:
    bits = np.random.default_rng(2).integers(0, 1 << 16, (2, 20000), np.uint16)
    old, value = bits.view(np.float16)
    with np.errstate(all="ignore"):
        wanted = old + value
    x = old.copy()
    for i, v in enumerate(value):
        hmm.atomic_add(x, i, v)
    assert np.array_equal(x, wanted, equal_nan=True)


def test_every_way_to_name_an_element() -> None:
    x = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    for i in (0, 5, 23, -1, -24, np.int8(7)):
        assert hmm.atomic_load(x, i) == x.item(int(i))
    for place in [(0, 0, 0), (1, 2, 3), (-1, -3, -4), (np.uint8(1), 0, 2)]:
        assert hmm.atomic_load(x, place) == x[place]
    for view in (x[:, ::-2, 1], x.T, x[::-1], np.asfortranarray(x), x[1, 2, 3, ...]):
        for i in range(view.size):
            assert hmm.atomic_add(view, i, 100) == view.item(i) - 100
    assert hmm.atomic_load(x[1, 2, 3, ...], ()) == x[1, 2, 3]


X = np.arange(6, dtype=np.int32)
READ_ONLY = np.broadcast_to(X, (2, 6))
ODD = np.zeros(33, np.uint8)[1:].view(np.int32)
REFUSED: list[tuple[str, tuple[Any, ...], str]] = [
    ("add", ([1, 2], 0, 1), "takes a numpy array, not list"),
    ("add", (np.zeros(4, bool), 0, 1), "dtype bool.*another dtype than one of int8"),
    ("store", (np.zeros(4, complex), 0, 1), "another dtype"),
    ("exch", (np.zeros(4, "U2"), 0, 1), "another dtype"),
    ("or", (np.zeros(4, np.float32), 0, 1), "another dtype"),
    ("inc", (X, 0, 1), "another dtype than one of uint8, uint16, uint32, uint64"),
    ("add", (X.astype(">i4"), 0, 1), r"native byte order; array.astype\('int32'\)"),
    ("add", (READ_ONLY, 0, 1), "read-only"),
    ("store", (ODD, 1, 1), "lies at 0x.*no multiple of 4.*copy"),
    ("load", (ODD, 1), "no multiple of 4"),
    ("add", (X, 6, 1), "no element 6 in the array of shape"),
    ("add", (X, -7, 1), "no element -7"),
    ("load", (X.reshape(2, 3), (1, 3)), r"no element \(1, 3\)"),
    ("load", (X.reshape(2, 3), (1,)), r"no element \(1,\)"),
    ("load", (X.reshape(2, 3), 6), "no element 6"),
    ("load", (X[:1], ()), r"no element \(\)"),
    ("load", (X[:0], 0), "no element 0"),
    ("load", (X, slice(0, 1)), "an index is an int or a tuple of ints, not slice"),
    ("load", (X, 1.0), "an index is"),
    ("load", (X, [1]), "an index is"),
    ("add", (X, 0, 1 << 31), "2147483648 does not fit int32"),
    ("sub", (X.astype(np.uint64), 0, -1), "-1 does not fit uint64"),
    ("add", (X, 0, 1.0), "1.0 does not fit int32"),
    ("add", (X, 0, True), "a value of type bool"),
    ("add", (X, 0, "1"), "a value of type str"),
    ("add", (X, 0, X), "a value of type ndarray"),
    ("add", (X, 0, None), "a value of type NoneType"),
    ("cas", (X, 0, 1 << 40, 0), "does not fit int32"),
    ("add", (np.zeros(1, np.float16), 0, 65520.0), "65520.0 does not fit float16"),
    ("max", (np.zeros(1, np.float64), 0, 10**400), "does not fit float64"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), REFUSED)
def test_what_is_refused_and_nothing_written(name: str, arguments: tuple[Any, ...], words: str) -> None:
    before = np.copy(arguments[0])
    with pytest.raises(hmm.ArgumentError, match=f"atomic_{name}.*{words}"):
        operate(name, *arguments)
    assert np.array_equal(before, arguments[0])


def test_a_read_only_array_can_be_loaded() -> None:
    assert hmm.atomic_load(READ_ONLY, (1, 4)) == 4


def test_threads_lose_nothing() -> None:
    x = np.zeros(3, np.int64)
    y = np.zeros(1, np.float32)

    def work() -> None:
        for _ in range(2000):
            hmm.atomic_add(x, 1, 3)
            hmm.atomic_add(y, 0, 0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert list(x) == [0, 24000, 0] and y[0] == 4000


def test_spaces_come_and_go_meanwhile() -> None:
    class Space:
        tracker = "uffd"

    known = space_module._spaces._open
    kept = [Space() for _ in range(5)]
    known.update({id(space): space for space in kept})
    x, done = np.zeros(1, np.int64), threading.Event()

    def churn() -> None:
        while not done.is_set():
            space = Space()
            known[id(space)] = space
            known.pop(id(space))

    before = sys.getswitchinterval()
    thread = threading.Thread(target=churn)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(20000):
            hmm.atomic_add(x, 0, 1)
    finally:
        sys.setswitchinterval(before)
        done.set()
        thread.join(60)
        for space in kept:
            known.pop(id(space))
    assert x[0] == 20000
