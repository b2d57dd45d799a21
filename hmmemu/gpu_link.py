"""The link of a GPU to the CPU, as NVIDIA's driver and the kernel tell of it. No state, no lock.

The driver says which atomic operations the link carries (cuDeviceGetHostAtomicCapabilities, CUDA 13). One that is
older says no more than "all" or "not all" (CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED): then "not all" is taken
for none, since an operation that is lost is worse than a page that moves. How fast the link is comes from the kernel's
table of PCI devices; what that does not tell, and latency, are those of the nearest profile. Not yet run on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hmmemu.capabilities import AtomicCapability, AtomicOperation
from hmmemu.gpus import Gpu, choose_index, find_gpus, parse_index
from hmmemu.link import Link, links
from hmmemu.link_figures import ALL_ATOMICS, NO_ATOMICS, pcie_bandwidth

PCI_DEVICES = Path("/sys/bus/pci/devices")
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}  # by GT/s of a lane


def find_gpu_link(device: str) -> tuple[Link, str]:
    """The link of the GPU that "gpu" (the first), "cuda" or "cuda:N" names, and where its figures come from.

    Raises:
        ArgumentError: the word is none of those.
        UnsupportedError: there is no driver or no such GPU.
    """
    word = "cuda" if device == "gpu" else device
    parse_index(word)  # before the driver is asked
    gpus = find_gpus()
    return gpu_link(gpus[choose_index(word, gpus)])


def gpu_link(gpu: Gpu) -> tuple[Link, str]:
    """The link of a GPU, named "cuda:0" by its index, and in words what it is and where its figures come from."""
    base, way = _speed(gpu)
    atomics, source = _atomics(gpu)
    return replace(base, name=f"cuda:{gpu.index}", atomics=atomics), f"{gpu.name}; {way}; atomics: {source}"


def _atomics(gpu: Gpu) -> tuple[tuple[AtomicCapability, ...], str]:
    if gpu.atomics:
        return tuple(_capability(gpu, o) for o in AtomicOperation), "as the driver says"
    if gpu.host_atomics:
        return ALL_ATOMICS, f"all, as the driver says ({gpu.atomics_unknown})"
    return NO_ATOMICS, f"taken for none: {gpu.atomics_unknown}"


def _capability(gpu: Gpu, operation: AtomicOperation) -> AtomicCapability:
    """CUDA has no flag for 16 bits: there they are native where all is."""
    known = AtomicCapability(gpu.atomics[operation] & sum(AtomicCapability))
    half = AtomicCapability.SCALAR_16 & ALL_ATOMICS[operation]
    return known | half if known and gpu.host_atomics else known


def _speed(gpu: Gpu) -> tuple[Link, str]:
    """A profile of that kind, with the bandwidth of the link, and what it is."""
    profiles = {link.name: link for link in links()}
    if gpu.host_page_tables:
        name = "nvlink-c2c" if gpu.capability >= (9, 0) else "nvlink"
        return profiles[name], f"a coherent link, with the figures of profile {name}"
    rate, lanes = _pcie(gpu.bus)
    if not rate or not lanes:
        return profiles["pcie4"], "its speed cannot be read; with the figures of profile pcie4"
    generation = _GENERATIONS.get(rate, 4)
    near = profiles[f"pcie{min(max(generation, 3), 6)}"]
    words = f"PCIe {generation}, {lanes} lanes of {rate:g} GT/s"
    return replace(near, bandwidth=pcie_bandwidth(rate, lanes)), words


def _pcie(bus: str) -> tuple[float, int]:
    """GT/s and lanes that a device and the port above it both have; 0 what cannot be read.

    Not the current speed: an idle GPU slows its link down.
    """
    place = PCI_DEVICES / bus.lower()
    if not bus or not place.exists():
        return 0.0, 0
    ends = [place.resolve(), place.resolve().parent]
    rates = [rate for end in ends if (rate := _number(end / "max_link_speed"))]
    lanes = [count for end in ends if (count := _number(end / "max_link_width"))]
    return min(rates, default=0.0), int(min(lanes, default=0.0))


def _number(path: Path) -> float:
    """The number that a file begins with ("16.0 GT/s PCIe"), 0 if it has none; 255 lanes stand for unknown."""
    try:
        value = float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return 0.0 if value == 255 else value


__all__ = ["find_gpu_link", "gpu_link"]
