"""Tests that need a real GPU: skipped, with the reason, where there is none. Not yet run on a GPU (docs/testing.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hmmemu as hmm
from hmmemu.gpus import Gpu, choose_gpu

SECONDS = 120  # for each test; a thread that hangs in a page fault hears no signal, so the run ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(SECONDS, method="thread"))


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> Gpu:
    """The first GPU."""
    if request.config.getoption("--stand-in"):
        pytest.skip("needs a real GPU, and not a stand-in")
    try:
        return choose_gpu("cuda")
    except hmm.UnsupportedError as error:
        pytest.skip(f"needs a real GPU: {error}")


@pytest.fixture
def gpu_space(gpu: Gpu) -> Iterator[hmm.AddressSpace]:
    """A space on it, the current one."""
    with hmm.AddressSpace(f"cuda:{gpu.index}", timeout=60) as space:
        yield space


@pytest.fixture
def cupy(gpu: Gpu) -> Iterator[Any]:
    """CuPy, on that GPU."""
    module = pytest.importorskip("cupy")
    with module.cuda.Device(gpu.index):
        yield module
