"""Random kernels (random_kernels.py) give the same results cut at their barriers, in lock step, and as fibers.

Fibers are the yardstick: each thread runs by itself, as written. A warp operation makes a kernel run as fibers, whatever
its condition. To look for more: `python -m pytest test_random_programs.py`, with other numbers in SEEDS.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from random_kernels import PRELUDE, Generator

import hmmemu as hmm

SEEDS = (range(0, 8), range(8, 16))
FIBERS = "if (n == 0xffffffffu) __syncwarp();"


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_every_way_to_run_gives_the_same(space: hmm.AddressSpace, seeds: range) -> None:
    source = PRELUDE
    for seed in seeds:
        kernel = Generator(seed)
        source += kernel.text(f"plain{seed}") + kernel.text(f"fibers{seed}", FIBERS)
    module = hmm.RawModule(source)
    data = np.random.default_rng(0).integers(0, 2**32, 4096, np.uint32)
    given = np.array((3, 4), "u4,u4")[()]
    modes: Counter[str] = Counter()
    for seed in seeds:
        results = []
        for name in (f"plain{seed}", f"fibers{seed}"):
            out, kernel = np.zeros((2, 64, 3), np.uint32), module.get_function(name)
            kernel(2, 64, (out, data, np.uint32(77), np.uint32(9), given))
            modes[kernel.attributes["mode"]] += 1
            results.append(out)
        np.testing.assert_array_equal(results[0], results[1], err_msg=f"seed {seed}")
        assert results[1].any()
    assert modes["fiber"] < 2 * len(seeds) and modes["fission"] > 1
