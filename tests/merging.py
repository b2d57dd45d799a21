"""Content for same-page merging: pages that differ, and who shares them."""

from __future__ import annotations

import numpy as np

import hmmemu as hmm

PAGE = 4096
PAGES = 600  # more than a block of 512


def noise(seed: int, pages: int = PAGES) -> np.ndarray:
    """Pages no two of which are equal, as int32."""
    return np.random.default_rng(seed).integers(1, 1 << 31, pages * PAGE // 4, np.int32)


def owners(space: hmm.AddressSpace, array: np.ndarray, page: int) -> list[int]:
    return [owner.address for owner in space.record(array, page)]
