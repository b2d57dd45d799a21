"""kernels/pages.cu on the emulated device: gather, scatter and comparison of pages, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import nvrtc
import pytest

import hmmemu as hmm
import hmmemu.kernels

SOURCE = Path(hmmemu.kernels.__file__).parent / "pages.cu"
PAGE = 4096
KERNELS = ("gather_pages", "scatter_pages", "find_changed_pages")


@pytest.fixture(scope="module")
def module():
    return hmm.RawModule(path=SOURCE)


def pages_of(space, rng, count):
    memory = space.empty((count, PAGE), np.uint8)
    memory[...] = rng.integers(0, 256, memory.shape, np.uint8)
    return memory


@pytest.mark.parametrize("arch", [75, 90])
def test_source_is_valid_cuda(arch):
    assert nvrtc.compile_to_ptx(SOURCE.read_text(), name=SOURCE.name, arch=arch).count(".entry") == len(
        KERNELS
    )


@pytest.mark.parametrize(
    ("count", "blocks", "threads"), [(1, 1, 256), (7, 3, 256), (64, 200, 256), (33, 4, 96)]
)
def test_gather_then_scatter(space, module, count, blocks, threads):
    rng = np.random.default_rng(count)
    memory = pages_of(space, rng, 100)
    before = memory.copy()
    chosen = rng.permutation(100)[:count].astype(np.uint64)
    buffer = space.zeros((count + 1, PAGE), np.uint8)
    args = (memory, chosen, np.int32(count), buffer)
    module.get_function("gather_pages")((blocks,), (threads,), args)
    assert np.array_equal(buffer[:count], before[chosen]) and not buffer[count].any()
    assert np.array_equal(memory, before)

    buffer[:count] = buffer[:count][::-1] ^ 255
    expected = before.copy()
    expected[chosen] = buffer[:count]
    module.get_function("scatter_pages")((blocks,), (threads,), args)
    assert np.array_equal(memory, expected)


@pytest.mark.parametrize("threads", [256, 64, 1])
def test_one_byte_anywhere_in_a_page_counts(space, module, threads):
    rng = np.random.default_rng(1)
    before, count = pages_of(space, rng, 70), 70
    now = space.array(before)
    places = {0: 0, 3: 4095, 31: 2048, 32: 17, 64: 511, 69: 4080}
    for page, byte in places.items():
        now[page, byte] ^= 1 << (page % 8)
    changed = space.zeros(3, np.uint32)
    module.get_function("find_changed_pages")((5,), (threads,), (now, before, np.int32(count), changed))
    bits = np.unpackbits(changed.view(np.uint8), bitorder="little")
    assert set(np.flatnonzero(bits)) == set(places)


def test_nothing_changed_and_nothing_to_do(space, module):
    before = pages_of(space, np.random.default_rng(2), 9)
    now = space.array(before)
    changed = space.zeros(1, np.uint32)
    module.get_function("find_changed_pages")((4,), (256,), (now, before, np.int32(9), changed))
    assert changed[0] == 0
    buffer, none = space.full((1, PAGE), 7, np.uint8), np.zeros(1, np.uint64)
    module.get_function("gather_pages")((4,), (256,), (now, none, np.int32(0), buffer))
    assert (buffer == 7).all() and np.array_equal(now, before)


def test_pages_beyond_the_first_four_gigabytes(space, module):
    """A page's number times its size needs 64 bits."""
    far = (5 << 30) // PAGE
    memory = space.empty((far + 2) * PAGE, np.uint8)  # address space; two pages of it are touched
    memory[far * PAGE : (far + 1) * PAGE] = 9
    buffer = space.zeros(PAGE, np.uint8)
    module.get_function("gather_pages")(
        (1,), (256,), (memory[:1], np.array([far], np.uint64), np.int32(1), buffer)
    )
    assert (buffer == 9).all()
