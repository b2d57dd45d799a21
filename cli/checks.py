"""What `hmmemu doctor` looks at. Each check asks the machine, changes nothing, and never raises.

A check that is `needed` must be right for kernels to run here; any other one that is not right only narrows
the choice.
"""

from __future__ import annotations

import mmap
import os
import platform
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmmemu.errors import Error

if TYPE_CHECKING:
    from hmmemu.gpus import Gpu
    from hmmemu.trackers import Tracker

MIN_MAPS = 65530  # Linux's own default for vm.max_map_count
MIN_MEMORY = 1 << 30


@dataclass(frozen=True)
class Check:
    """One thing about this machine: what it is, whether it is right, and what to do if not."""

    topic: str
    name: str
    ok: bool
    value: str
    advice: str = ""
    needed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, in plain values."""
        return asdict(self)


def all_checks() -> list[Check]:
    """All checks in the order in which they are shown."""
    return [check for look in (_machine, _catching, _compiling, _gpu, _in_use) for check in look()]


def _machine() -> list[Check]:
    topic = "Machine"
    linux = platform.system() == "Linux"
    where = f"{platform.system()} {platform.release()} on {platform.machine()}"
    advice = "" if linux else "hmmemu runs on Linux only; use a virtual machine or a container"
    page_advice = "" if mmap.PAGESIZE == 4096 else "hmmemu needs a kernel with pages of 4 KiB"
    cpus = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    return [
        Check(topic, "system", linux, where, advice, needed=True),
        Check(topic, "page size", mmap.PAGESIZE == 4096, f"{mmap.PAGESIZE} bytes", page_advice, needed=True),
        Check(topic, "CPUs", cpus >= 1, f"{cpus} usable: as many worker threads on an emulated device"),
        _memory(),
        _maps(),
        _address_space_limit(),
    ]


def _memory() -> Check:
    available = _number(_field("/proc/meminfo", "MemAvailable:"), 0) * 1024
    limit = _cgroup_limit()
    usable = min(available, limit) if limit else available
    value = f"{usable / 2**30:.1f} GiB available"
    if limit and limit < available:
        value += " (limit of this container)"
    advice = "" if usable >= MIN_MEMORY else "little: use small sizes; shared pages exist up to twice"
    return Check("Machine", "memory", usable >= MIN_MEMORY, value, advice)


def _cgroup_limit() -> int | None:
    """Bytes that this control group may use, or None without a limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _number(_read(path), 0)
        if 0 < limit < 1 << 60:
            return limit
    return None


def _maps() -> Check:
    count = _number(_read("/proc/sys/vm/max_map_count"), 0)
    advice = "" if count >= MIN_MAPS else f"sysctl vm.max_map_count={MIN_MAPS}, or large arrays may fail"
    return Check("Machine", "vm.max_map_count", count >= MIN_MAPS, str(count), advice)


def _address_space_limit() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    free = soft == resource.RLIM_INFINITY
    value = "unlimited" if free else f"{soft / 2**30:.1f} GiB"
    advice = "" if free else "ulimit -v unlimited: hmmemu reserves far more addresses than it uses memory"
    return Check("Machine", "address space limit", free, value, advice)


def _catching() -> list[Check]:
    topic = "Catching accesses"
    try:
        from hmmemu import _native

        found: dict[str, Any] = _native.probe()
    except Exception as error:  # whatever it is, the user should read it here
        reason = f"{type(error).__name__}: {error}"
        return [Check(topic, "native driver", False, reason, "reinstall hmmemu: pip install .", needed=True)]
    from hmmemu import trackers

    way = str(found.get("userfaultfd", "none"))
    features = ", ".join(found.get("features", [])) or "none reported"
    taken, allowed = trackers.best(), way in ("syscall", "dev")
    advice = "" if allowed else trackers.USERFAULTFD_ADVICE
    return [
        Check(topic, "userfaultfd", allowed, _way_words(way, found), advice, needed=taken is None),
        Check(topic, "userfaultfd features", way != "none", features),
        *(_tracker(each, taken) for each in trackers.probe_all()),
    ]


def _way_words(way: str, found: dict[str, Any]) -> str:
    words = {"syscall": "by the system call", "dev": "by /dev/userfaultfd", "none": "not allowed"}
    return ": ".join(part for part in (words.get(way), found.get("reason")) if part) or way


def _tracker(tracker: Tracker, taken: Tracker | None) -> Check:
    """One way to catch accesses: whether it works, what it does or why not, and whether "auto" takes it."""
    auto = taken is not None and taken.name == tracker.name
    value = tracker.words + (" (what 'auto' takes)" if auto else "")
    return Check("Catching accesses", f"tracker {tracker.name}", tracker.usable, value, needed=auto)


def _compiling() -> list[Check]:
    topic = "Compiling kernels"
    from hmmemu.compiler.toolchain import find_compiler

    try:
        found = find_compiler()
    except Error as error:
        return [Check(topic, "C++ compiler", False, "none found", str(error), needed=True)]
    value = f"{' '.join(found.command)}: {found.version} ({found.why})"
    return [Check(topic, "C++ compiler", True, value, needed=True)]


def _gpu() -> list[Check]:
    """The GPUs as the driver tells of them, and CuPy, which is not imported: that would start CUDA in this process."""
    topic = "GPU"
    try:
        from hmmemu.gpus import find_gpus, installed_cupy

        gpus, why_none = find_gpus(), ""
    except Error as error:
        gpus, why_none = (), str(error)
    except Exception as error:  # whatever it is, the user should read it here
        return [Check(topic, "NVIDIA driver", False, f"{type(error).__name__}: {error}", "reinstall hmmemu")]
    driver = gpus[0].driver if gpus else 0
    words = f"supports CUDA {driver // 1000}.{driver % 1000 // 10}" if gpus else why_none
    cupy = installed_cupy()
    advice = f"pip install 'hmmemu[{'cuda13' if driver >= 13000 else 'cuda12'}]'" if gpus and not cupy else ""
    return [
        Check(topic, "NVIDIA driver", bool(gpus), words),
        *(check for gpu in gpus for check in _one_gpu(gpu)),
        Check(topic, "CuPy", bool(cupy), cupy or "not installed", advice),
        *(
            [_nvrtc("nvidia-cuda-nvrtc" if driver >= 13000 else "nvidia-cuda-nvrtc-cu12")]
            if gpus and cupy
            else []
        ),
    ]


def _nvrtc(package: str) -> Check:
    """What compiles kernels for a GPU. Asked in another process: CuPy is not imported in this one."""
    program = "from cupy.cuda import nvrtc; print('%d.%d' % nvrtc.getVersion())"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("GPU", "NVRTC", False, str(error))
    if done.returncode == 0:
        return Check("GPU", "NVRTC", True, f"{done.stdout.strip()} compiles kernels")
    words = (done.stderr.strip().splitlines() or ["it cannot be loaded"])[-1]
    return Check("GPU", "NVRTC", False, words, f"pip install {package}, or install the CUDA toolkit")


def probe_checks() -> list[Check]:
    """What hmmemu assumes of NVIDIA's driver, tried on each GPU: `hmmemu doctor --gpu`. Up to minutes."""
    from hmmemu.gpu_probes import PROBES, run_probes
    from hmmemu.gpus import find_gpus

    topic = "What hmmemu assumes of the GPU's driver"
    try:
        gpus = find_gpus()
    except Error as error:
        return [Check(topic, "probes", False, f"not tried: {error}")]
    return [
        Check(topic, f"GPU {gpu.index}, {f.name}", f.ok, f"{PROBES[f.name]}: {f.found}{_figures(f.figures)}")
        for gpu in gpus
        for f in run_probes(gpu)
    ]


def _figures(figures: dict[str, int]) -> str:
    shown = [
        f"{name.removesuffix('_ns')} {value / 1e3:.1f} µs" if name.endswith("_ns") else f"{name} {value}"
        for name, value in figures.items()
    ]
    return f" ({', '.join(shown)})" if shown else ""


def _one_gpu(gpu: Gpu) -> list[Check]:
    from hmmemu.capabilities import AtomicOperation
    from hmmemu.gpu_link import gpu_link

    name = f"GPU {gpu.index}"
    link, words = gpu_link(gpu)
    native = [o.cuda_name for o, flags in zip(AtomicOperation, link.atomics, strict=True) if flags]
    words += f" ({', '.join(native)}); {link.bandwidth / 1e9:.1f} GB/s" if native else ""
    advice = "a driver of CUDA 13 tells" if gpu.atomics_unknown else ""
    return [
        Check("GPU", name, not gpu.lacks, str(gpu) + (f": it lacks {gpu.lacks}" if gpu.lacks else "")),
        Check("GPU", f"{name}, link", not advice, words, advice),
    ]


def _in_use() -> list[Check]:
    """Opens a space with nothing asked for, to see what it takes."""
    topic = "In use"
    try:
        import hmmemu as hmm

        with hmm.AddressSpace() as space:
            device = repr(space.devices[0])
            tracker = f"{space.tracker}: {space.tracker_why}"
    except Exception as error:
        return [Check(topic, "address space", False, f"{type(error).__name__}: {error}", needed=True)]
    return [
        Check(topic, "device", True, device, needed=True),
        Check(topic, "tracker", True, tracker, needed=True),
        *_variables(topic),
    ]


def _variables(topic: str) -> list[Check]:
    names = ("HMMEMU_DEVICE", "HMMEMU_TRACKER", "HMMEMU_CHECK_REACH", "CXX")
    return [
        Check(topic, name, True, f"{os.environ[name]} (from the environment)")
        for name in names
        if name in os.environ
    ]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _field(path: str, key: str) -> str:
    lines = [line.split() for line in _read(path).split("\n")]
    return next((words[1] for words in lines if len(words) > 1 and words[0] == key), "")


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isdigit() else otherwise
