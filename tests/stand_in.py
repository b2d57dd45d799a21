"""`pytest --stand-in`: spaces are on a CUDA device, and the GPU is the stand-in of tests/unit/cuda.

A test for which a GPU is no place says why here, by file, by test or by its first parameters. The rest of the suite
must pass.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

_WAITS = "a kernel that waits for the CPU while it runs: the CPU waits for the page, 100 s, and the kernel is ended"
_ATOMICS = "the link's ways with atomic operations are the emulated device's"
_FILES = "CUDA does not register pages of a regular file: they move to the GPU"
_WHOLE = "a kernel on a GPU needs all of its arrays there at a time, and these are larger than its memory"

NOT_FOR_A_GPU: dict[str, str] = {
    "test_atomics_in_place::test_a_device_that_dies[file": _FILES,
    "test_atomics_in_place::test_a_full_device_has_nothing_to_evict[file": _FILES,
    "test_atomics_in_place::test_a_truncated_file": _FILES,
    "test_atomics_in_place::test_at_the_same_time[file": _FILES,
    "test_atomics_in_place::test_by_both_devices_and_the_cpu": "a launch that does not share a page has it on the GPU",
    "test_atomics_in_place::test_everything_else_that_wants_the_pages[file": _FILES,
    "test_atomics_in_place::test_other_processes_see_them_at_once": _FILES,
    "test_atomics_in_place::test_what_the_link_lacks": _ATOMICS,
    "test_atomics_report": _ATOMICS,
    "test_atomics_together": _WAITS,
    "test_exclusive": _ATOMICS,
    "test_memory_order": _WAITS,
    "test_misaligned_atomics": _ATOMICS,
    "test_system_atomics": _ATOMICS,
    "test_registered_while_running": _WAITS + "; tests/unit/cuda/test_overlapping_registrations.py",
    "test_thrashing": _WAITS,
    "test_waiting_kernels": _WAITS,
    "test_left_rights::test_stores_while_a_kernel_runs": _WAITS,
    "test_eviction::test_a_kernel_over_four_times_the_memory": _WHOLE,
    "test_eviction::test_random_accesses_by_everybody": _WHOLE,
    "test_eviction::test_two_small_devices": _WHOLE,
    "test_eviction::test_watched_pages_are_evicted_without_being_written": _WHOLE,
    "test_device_views": "a view is a CuPy array, of which there is none here: tests/unit/cuda/test_device_view.py",
    "test_protectors::test_dirty_against_a_model": "a kernel counts as writing all of an array that it may write",
    "test_transitions::test_counts_are_exact_without_growth": "kernels on a GPU have no page faults",
    "test_reach::test_without_the_check_names_cost_nothing": "memory that a launch does not name is not on a GPU",
    "test_unmapped_memory::test_a_kernel_that_touches_it_fails": "the launch is refused, before a kernel begins",
}


_DATA = "pointers in data, which mean nothing on a GPU that has other addresses"

NOT_AT_A_DISTANCE: dict[str, str] = {
    "test_address_distance::test_without_need_there_is_no_distance": "there is one",
    "test_cuda_reach": _DATA,
    "test_reach": _DATA,
    "test_cuda_run::test_run_verifies": _DATA,
}


def install(at_a_distance: bool) -> None:
    """From here on this process, and programs that it starts, find the stand-in where a GPU would be."""
    sys.path.insert(0, str(Path(__file__).parent / "unit/cuda"))
    import fakecuda

    from hmmemu import gpus

    module = types.ModuleType("hmmemu.cuda_compile")
    module.compile_module = fakecuda.compile_module  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    gpus.installed_cupy = lambda: "cupy-cuda12x 14.2.0"
    os.environ |= {"HMMEMU_LIBCUDA": str(fakecuda.library()), "HMMEMU_DEVICE": "cuda"}
    if at_a_distance:
        os.environ["FAKE_CUDA"] = fakecuda.AT_A_DISTANCE


def _covers(key: str, name: str) -> bool:
    """Whether a test is that of the key, or one of that file, or with those first parameters."""
    return name.startswith(key) and name[len(key) : len(key) + 1] in ("", ":", "[", "-")


def mark(items: list[pytest.Item], table: dict[str, str], option: str) -> None:
    """Skips what cannot be."""
    for item in items:
        name = f"{item.path.stem}::{item.name}"
        reason = next((table[key] for key in table if _covers(key, name)), "")
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"{option}: {reason}"))
