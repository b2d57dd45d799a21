"""The GPUs of this machine, as NVIDIA's driver describes them. No state but its answer, no lock.

The driver is asked by a process of its own (`hmmemu-cuda list`) and never in this one: a process that has called CUDA
cannot use it in its fork children any more, and programs fork.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hmmemu import _native
from hmmemu.errors import ArgumentError, UnsupportedError

# Beside the extension module, in editable installs too.
PROGRAM = Path(_native.__file__).parent / "hmmemu-cuda"
_LIBRARY = "libcuda.so.1"
_LINKER_CACHE = Path("/etc/ld.so.cache")
_MULTIARCH = f"{platform.machine()}-linux-gnu"  # Debian's
_LINKER_FOLDERS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", f"/lib/{_MULTIARCH}", f"/usr/lib/{_MULTIARCH}")
_LIMIT = 60.0  # seconds: the driver of a machine with many GPUs takes several to start
_END_LIMIT = 5.0  # for it to end, when it is killed
_PROHIBITED = 2  # CU_COMPUTEMODE_PROHIBITED
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")  # distributions of CuPy, the newest CUDA first


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: CUDA's number of it, from 0, among those that CUDA_VISIBLE_DEVICES shows.
        name: "NVIDIA H100 80GB HBM3", for example.
        bytes: its memory.
        capability: compute capability, (major, minor).
        compute_mode: 0 default, 2 prohibited, 3 one process only.
        unified_addresses, virtual_memory: what a device of an address space needs: one range of addresses with the
            CPU, and memory mapped at chosen addresses.
        file_descriptors: whether its memory can be passed between processes. If not, there are no device views, and
            what it alone has is lost with a kernel that fails.
        host_atomics: whether its atomic operations reach the CPU's memory.
        shared_bytes: block-shared memory that a launch can have.
        bus: its PCI address, "0000:65:00.0".
        host_page_tables: whether it uses the CPU's page tables: the link is coherent (NVLink to the CPU, C2C).
        host_pointers: whether memory of the CPU that is registered has one address on both sides.
        atomics: a mask of `AtomicCapability` for each `AtomicOperation`: what its link to the CPU performs in place.
            Empty if the driver does not say; `atomics_unknown` tells why.
        atomics_unknown: see above; empty if the driver says.
        driver: CUDA's version that the driver supports, 1000 * major + 10 * minor.
    """

    index: int
    name: str
    bytes: int
    capability: tuple[int, int]
    compute_mode: int
    unified_addresses: bool
    virtual_memory: bool
    file_descriptors: bool
    host_atomics: bool
    shared_bytes: int
    bus: str
    host_page_tables: bool
    host_pointers: bool
    atomics: tuple[int, ...]
    atomics_unknown: str
    driver: int

    @property
    def lacks(self) -> str:
        """What keeps it from being a device of an address space, in words; empty if nothing does."""
        needs = {
            "unified addresses with the CPU": self.unified_addresses,
            "virtual memory management (cuMemMap; a virtual GPU may lack it)": self.virtual_memory,
            "the CPU's memory at the CPU's addresses (cuMemHostRegister)": self.host_pointers,
        }
        missing = [words for words, there in needs.items() if not there]
        if self.compute_mode == _PROHIBITED:
            missing.append("a compute mode that allows programs (nvidia-smi --compute-mode=DEFAULT)")
        return " and ".join(missing)

    def __str__(self) -> str:
        major, minor = self.capability
        return (
            f"GPU {self.index}, {self.name}, {self.bytes / 2**30:.1f} GiB, compute capability {major}.{minor}"
        )


def why_no_driver() -> str:
    """Why NVIDIA's driver cannot be there, empty if it may be. A look at files, no more."""
    if os.environ.get("HMMEMU_LIBCUDA"):
        return ""
    named = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
    if any((Path(folder) / _LIBRARY).exists() for folder in [*named, *_LINKER_FOLDERS] if folder):
        return ""
    try:
        known = f"{_LIBRARY}\0".encode() in _LINKER_CACHE.read_bytes()
    except OSError:
        known = False
    return "" if known else f"NVIDIA's driver is not installed (no {_LIBRARY})"


def find_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows, by index; there is at least one. Asked once: the driver takes long to start.

    Raises:
        UnsupportedError: there is no driver or no GPU, or the driver does not work; the message says what to do.
    """
    return _find(str(PROGRAM), tuple(sorted(os.environ.items())))


@lru_cache(maxsize=4)
def _find(program: str, environment: tuple[tuple[str, str], ...]) -> tuple[Gpu, ...]:
    """What `program` says in this environment, which is what this process has. Refusals are not kept."""
    status, out, words = _ask_driver(program)
    if status != 0:
        words = words.strip() or f"{PROGRAM.name} ended with status {status} and without a word"
        raise UnsupportedError(words)
    found = json.loads(out)
    return tuple(
        Gpu(**{**gpu, **{key: tuple(gpu[key]) for key in ("capability", "atomics")}}, driver=found["driver"])
        for gpu in found["gpus"]
    )


def _ask_driver(program: str) -> tuple[int, str, str]:
    """The status of the program, and what it wrote: the answer, and complaints."""
    try:
        process = subprocess.Popen(
            [program, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise UnsupportedError(f"cannot run {program}: {error.strerror}; reinstall hmmemu") from None
    try:
        out, words = process.communicate(timeout=_LIMIT)
    except BaseException as error:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # in a call of the driver that cannot be interrupted
            process.wait(_END_LIMIT)
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise UnsupportedError(
            f"the NVIDIA driver did not answer within {_LIMIT:.0f} s: does nvidia-smi?"
        ) from None
    return process.returncode, out, words


def parse_index(device: str) -> int:
    """The index that "cuda" (0) or "cuda:N" names; ArgumentError for anything else."""
    word, colon, index = device.partition(":")
    if word != "cuda" or (colon and not (index.isascii() and index.isdecimal())):
        raise ArgumentError(f"device={device!r}: a GPU is 'cuda' (the first) or 'cuda:N', N from 0")
    return int(index or 0)


def choose_index(device: str, gpus: Sequence[Gpu]) -> int:
    """The index that "cuda" or "cuda:N" names, of one of these GPUs.

    Raises:
        ArgumentError: the word is none of those.
        UnsupportedError: there is no such GPU; the message lists those there are.
    """
    index = parse_index(device)
    if index >= len(gpus):
        known = "; ".join(map(str, gpus))
        raise UnsupportedError(f"device={device!r}: there is no GPU {index} here, but {known}")
    return index


def choose_gpu(device: str) -> Gpu:
    """The GPU that "cuda" or "cuda:N" names, if kernels can run there.

    Raises:
        ArgumentError: the word is none of those.
        UnsupportedError: no driver, no such GPU, the GPU lacks something, or CuPy is not installed.
    """
    parse_index(device)  # before the driver is asked
    gpus = find_gpus()
    gpu = gpus[choose_index(device, gpus)]
    if gpu.lacks:
        raise UnsupportedError(f"device={device!r}: {gpu} lacks {gpu.lacks}")
    if not installed_cupy():
        extra = "cuda13" if gpu.driver >= 13000 else "cuda12"
        raise UnsupportedError(
            f"device={device!r}: {gpu} is there, and CuPy is not installed: pip install 'hmmemu[{extra}]'"
        )
    return gpu


def installed_cupy() -> str:
    """CuPy's distribution and version, "cupy-cuda12x 14.2.0"; empty if it is not installed. Does not import it."""
    for name in _CUPY:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return ""
