"""What hmmemu assumes of NVIDIA's driver, tried on a GPU: checks, each in a process of its own. No state, no lock.

One that crashes or hangs ends alone, after a limit, and hides no other (`hmmemu-cuda probe`,
native/device/cuda/probe.h). `hmmemu doctor --gpu` shows them; tests/gpu asserts them. Not yet run on a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files

from hmmemu.errors import CompileError, UnsupportedError
from hmmemu.gpus import PROGRAM, Gpu

LIMIT = 30.0  # seconds for each
_LAUNCHES = ("kernels", "failure")  # which need the file of kernels/pages.cu
PROBES = {
    "addresses": "memory of a GPU at the CPU's addresses",
    "arena": "the place of arrays of hmm.empty, as a whole and by blocks",
    "memory": "memory, and what it costs",
    "export": "memory that outlives its process",
    "descriptors": "descriptors for the keeper of GPU memory",
    "register": "the CPU's memory, registered for kernels",
    "punched": "a registered page that gets another frame",
    "kernels": "a kernel of NVRTC's",
    "failure": "a kernel that fails",
}


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    Attributes:
        name: a key of `PROBES`.
        ok: whether it is as hmmemu wants it.
        found: in words.
        figures: counts, and times in nanoseconds (``..._ns``), medians of this run.
    """

    name: str
    ok: bool
    found: str
    figures: dict[str, int] = field(default_factory=dict)


def run_probes(gpu: Gpu, limit: float = LIMIT) -> Iterator[Finding]:
    """Runs all probes on a GPU, one after the other, each no longer than `limit` seconds. Raises nothing of theirs."""
    module, why_none = "", ""
    try:
        from hmmemu.cuda_compile import compile_module

        source = (files("hmmemu.kernels") / "pages.cu").read_text()
        module = str(compile_module(source, gpu.capability, filename="pages.cu").path)
    except (CompileError, UnsupportedError) as error:
        why_none = str(error)
    for name in PROBES:
        if name in _LAUNCHES and not module:
            yield Finding(name, False, f"not tried: kernels/pages.cu cannot be compiled: {why_none}")
        else:
            yield _run(name, [str(PROGRAM), "probe", name, str(gpu.index), module], limit)


def _run(name: str, command: list[str], limit: float) -> Finding:
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as error:
        return Finding(name, False, f"cannot run {PROGRAM}: {error.strerror}; reinstall hmmemu")
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what it started, too
        with suppress(subprocess.TimeoutExpired):  # in a call of the driver that cannot be interrupted
            process.communicate(timeout=5)
        return Finding(name, False, f"did not end within {limit:g} s")
    if process.returncode < 0:
        return Finding(name, False, f"ended by {signal.Signals(-process.returncode).name}: {err.strip()}")
    if process.returncode:
        return Finding(name, False, err.strip() or f"ended with status {process.returncode}")
    return Finding(name, **json.loads(out))


__all__ = ["LIMIT", "PROBES", "Finding", "run_probes"]
