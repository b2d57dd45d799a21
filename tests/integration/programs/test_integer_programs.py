"""Hashes, checksums, bits, a lock (integers.cu) against Python's own, exactly."""

from __future__ import annotations

import hashlib
import math
import zlib

import numpy as np
import pytest
from cuda_programs import program

import hmmemu as hmm

rng = np.random.default_rng(5)


@pytest.fixture
def module(space: hmm.AddressSpace) -> hmm.RawModule:
    return program("integers")


def fractions_of_cube_roots() -> list[int]:
    """SHA-256's constants: the first 32 bits of the fractional parts of the primes' cube roots."""
    primes = [p for p in range(2, 312) if all(p % d for d in range(2, math.isqrt(p) + 1))]
    found = []
    for p in primes[:64]:
        root = round((p << 96) ** (1 / 3))
        while root**3 > p << 96:
            root -= 1
        while (root + 1) ** 3 <= p << 96:
            root += 1
        found.append(root & 0xFFFFFFFF)
    return found


def test_sha256(module: hmm.RawModule) -> None:
    module.get_global("sha_k").view(np.uint32)[:] = fractions_of_cube_roots()
    texts = [rng.bytes(int(k)) for k in rng.integers(0, 56, 100)]
    blocks = np.frombuffer(
        b"".join(t + b"\x80" + bytes(55 - len(t)) + (8 * len(t)).to_bytes(8, "big") for t in texts), np.uint32
    ).copy()
    digests = np.zeros((100, 8), np.uint32)
    module.get_function("sha256")(4, 32, (blocks, digests, 100))
    assert [d.tobytes() for d in digests] == [hashlib.sha256(t).digest() for t in texts]


def test_crc32(module: hmm.RawModule) -> None:
    texts = [rng.bytes(int(k)) for k in rng.integers(0, 200, 77)]
    text = np.frombuffer(b"".join(texts), np.uint8)
    starts = np.cumsum([0] + [len(t) for t in texts]).astype(np.int32)
    sums = np.zeros(77, np.uint32)
    module.get_function("crc32")(2, 40, (text, starts, sums, 77))
    np.testing.assert_array_equal(sums, [zlib.crc32(t) for t in texts])


def test_64_bit_products(module: hmm.RawModule) -> None:
    x, out = rng.integers(0, 2**64, 200, np.uint64), np.zeros((200, 2), np.uint64)
    module.get_function("mix64")(2, 128, (x, out, 200))
    for value, (mixed, high) in zip(x.tolist(), out.tolist(), strict=True):
        k = value ^ (value >> 33)
        k = k * 0xFF51AFD7ED558CCD % 2**64
        k ^= k >> 33
        k = k * 0xC4CEB9FE1A85EC53 % 2**64
        k ^= k >> 33
        assert (mixed, high) == (k, value * k >> 64)


def test_modular_powers_and_bits(module: hmm.RawModule) -> None:
    base, exponent = (rng.integers(0, 2**32, 64, np.uint32) for _ in range(2))
    out, bits = np.zeros(64, np.uint32), np.zeros((64, 4), np.int32)
    module.get_function("power_mod")(1, 64, (base, exponent, np.uint32(4294967291), out))
    pairs = zip(base.tolist(), exponent.tolist(), strict=True)
    np.testing.assert_array_equal(out, [pow(b, e, 4294967291) for b, e in pairs])
    exponent[0] = 0
    module.get_function("bits")(1, 64, (exponent, bits))
    for v, (ones, zeros, first, reversed_) in zip(exponent.tolist(), bits.tolist(), strict=True):
        assert ones == v.bit_count() and zeros == 32 - v.bit_length()
        assert first == (v & -v).bit_length()
        assert reversed_ & 0xFFFFFFFF == int(f"{v:032b}"[::-1], 2)


def rc4(key: bytes, count: int) -> bytes:
    s, j, i, out = list(range(256)), 0, 0, []
    for n in range(256):
        j = (j + s[n] + key[n % len(key)]) % 256
        s[n], s[j] = s[j], s[n]
    j = 0
    for _ in range(count):
        i = (i + 1) % 256
        j = (j + s[i]) % 256
        s[i], s[j] = s[j], s[i]
        out.append(s[(s[i] + s[j]) % 256])
    return bytes(out)


def test_rc4_with_keys_by_pointer_to_pointer(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    keys = [rng.bytes(int(k)) for k in rng.integers(3, 17, 32)]
    shared = [space.array(np.frombuffer(k, np.uint8)) for k in keys]
    pointers = np.array([a.ctypes.data for a in shared], np.uint64)
    lengths, stream = np.array([len(k) for k in keys], np.int32), np.zeros((32, 40), np.uint8)
    module.get_function("rc4")(1, 32, (pointers, lengths, stream, 40))
    assert [s.tobytes() for s in stream] == [rc4(k, 40) for k in keys]


def test_a_lock_and_a_maximum_by_compare_and_swap(module: hmm.RawModule) -> None:
    count, maximum, values = np.zeros(1, np.int32), np.full(1, -1e9), rng.standard_normal(6400)
    module.get_function("locked")(200, 32, (count, maximum, values))
    assert count[0] == 200 and maximum[0] == values.max()


def test_life_on_words(module: hmm.RawModule) -> None:
    rows, words = 40, 3
    cells = rng.integers(0, 2, (rows, 32 * words), np.uint8)
    before = np.packbits(cells, axis=1, bitorder="little").view(np.uint32).copy()
    for _ in range(5):
        after = np.zeros_like(before)
        module.get_function("life")((1, 5), (4, 8), (before, after, words, rows))
        around = sum(np.roll(cells, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) - cells
        cells = ((around == 3) | ((around == 2) & (cells == 1))).astype(np.uint8)
        got = np.unpackbits(after.view(np.uint8), axis=1, bitorder="little")
        np.testing.assert_array_equal(got, cells)
        before = after
