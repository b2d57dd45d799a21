"""Spaces on the stand-in for libcuda.so.1."""

from __future__ import annotations

import sys
import types

import fakecuda
import fakecupy
import pytest

import hmmemu as hmm
from hmmemu import gpus


@pytest.fixture
def stand_in(monkeypatch, pytestconfig):
    """stand_in("bytes=67108864"): from then on, GPUs are the stand-in's."""
    module = types.ModuleType("hmmemu.cuda_compile")
    module.compile_module = fakecuda.compile_module
    monkeypatch.setitem(sys.modules, "hmmemu.cuda_compile", module)
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "cupy-cuda12x 14.2.0")
    monkeypatch.setenv("HMMEMU_LIBCUDA", str(fakecuda.library()))

    def use(settings=""):
        far = [fakecuda.AT_A_DISTANCE] if pytestconfig.getoption("--at-a-distance") else []
        monkeypatch.setenv("FAKE_CUDA", ",".join([settings, *far]))

    return use


@pytest.fixture
def gpu(stand_in):
    """gpu("bytes=67108864", device_memory=...): a space on the stand-in, closed after the test."""
    opened = []

    def open_space(settings="", device="cuda", **options):
        stand_in(settings)
        opened.append(hmm.AddressSpace(device, timeout=60, **options))
        return opened[-1]

    yield open_space
    for space in opened:
        space.close()


@pytest.fixture
def gate(tmp_path):
    """A file that kernels of the stand-in wait for: they begin when it is gone, or after 20 s."""
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def cupy(monkeypatch):
    """fakecupy.py is what `import cupy` finds."""
    module = fakecupy.make(fakecuda.library())
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module
