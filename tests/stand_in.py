"""`pytest --stand-in`: spaces are on a CUDA device, and the GPU is the stand-in of tests/unit/cuda.

A test for which a GPU is no place says why here, by file or by test. The rest of the suite must pass.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

_WAITS = "the kernel waits for the CPU while it runs, or the CPU for a page that it uses: docs/cuda.md"
_ATOMICS = "the link's way with atomic operations: an emulated one's"
_WHOLE = "a kernel needs all of its arrays on the GPU at a time, and these are larger than its memory"
_WATCHED = "a kernel counts as writing all of an array that it may write"

NOT_FOR_A_GPU: dict[str, str] = {
    "test_atomics_report": _ATOMICS,
    "test_atomics_together": _WAITS,
    "test_exclusive": _ATOMICS,
    "test_memory_order": _WAITS,
    "test_misaligned_atomics": _ATOMICS,
    "test_system_atomics": _ATOMICS,
    "test_thrashing": _WAITS,
    "test_waiting_kernels": _WAITS,
    "test_left_rights::test_stores_while_a_kernel_runs": _WAITS,
}


def install() -> None:
    """From here on this process, and programs that it starts, find the stand-in where a GPU would be."""
    sys.path.insert(0, str(Path(__file__).parent / "unit/cuda"))
    import fakecuda

    from hmmemu import gpus

    module = types.ModuleType("hmmemu.cuda_compile")
    module.compile_module = fakecuda.compile_module  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    gpus.installed_cupy = lambda: "cupy-cuda12x 14.2.0"
    os.environ |= {"HMMEMU_LIBCUDA": str(fakecuda.library()), "HMMEMU_DEVICE": "cuda"}


def mark(items: list[pytest.Item]) -> None:
    """Skips what cannot be."""
    for item in items:
        name = f"{item.path.stem}::{getattr(item, 'originalname', item.name)}"
        reason = NOT_FOR_A_GPU.get(name) or NOT_FOR_A_GPU.get(item.path.stem)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"--stand-in: {reason}"))
