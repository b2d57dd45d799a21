"""Spaces on the stand-in for libcuda.so.1."""

from __future__ import annotations

import sys
import types

import fakecuda
import pytest

import hmmemu as hmm
from hmmemu import gpus


@pytest.fixture
def gpu(monkeypatch):
    """gpu("bytes=67108864", device_memory=...): a space on the stand-in, closed after the test."""
    module = types.ModuleType("hmmemu.cuda_compile")
    module.compile_module = fakecuda.compile_module
    monkeypatch.setitem(sys.modules, "hmmemu.cuda_compile", module)
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "cupy-cuda12x 14.2.0")
    monkeypatch.setenv("HMMEMU_LIBCUDA", str(fakecuda.library()))
    opened = []

    def open_space(settings="", **options):
        monkeypatch.setenv("FAKE_CUDA", settings)
        opened.append(hmm.AddressSpace(device="cuda", timeout=60, **options))
        return opened[-1]

    yield open_space
    for space in opened:
        space.close()
