"""Links between CPU and device: how fast one is, and which atomic operations it carries.

The vocabulary is that of CUDA's `cudaDeviceGetHostAtomicCapabilities`: thirteen operations, and for each of them
flags for the types and sizes that the link performs natively, in place, on memory of the other side. What a link
lacks has to be done in another way, a `Fallback`; `Link.route` says which way an operation goes.

Everything here is immutable, so no lock guards it. (The module is not called `links`: `hmm.links` is a function.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag, StrEnum
from pathlib import Path
from typing import Any

from hmmemu.errors import ArgumentError


class AtomicOperation(IntEnum):
    """cudaAtomicOperation, with its values."""

    INTEGER_ADD = 0
    INTEGER_MIN = 1
    INTEGER_MAX = 2
    INTEGER_INCREMENT = 3
    INTEGER_DECREMENT = 4
    AND = 5
    OR = 6
    XOR = 7
    EXCHANGE = 8
    CAS = 9
    FLOAT_ADD = 10
    FLOAT_MIN = 11
    FLOAT_MAX = 12

    @property
    def cuda_name(self) -> str:
        """As in cudaAtomicOperation..., for example "IntegerAdd"."""
        return _cuda_name(self.name)


class AtomicCapability(IntFlag):
    """cudaAtomicOperationCapability, with its values; and SCALAR_16, which that enumeration lacks."""

    SIGNED = 1
    UNSIGNED = 2
    REDUCTION = 4  # also in the form that does not return the old value
    SCALAR_32 = 8
    SCALAR_64 = 16
    SCALAR_128 = 32
    VECTOR_32X4 = 64
    SCALAR_16 = 1 << 16  # CUDA has 16-bit atomics, and no flag that says where they work

    @property
    def cuda_names(self) -> list[str]:
        """As in cudaAtomicCapability..., for example ["Signed", "Scalar32"]."""
        return [_cuda_name(flag.name or "") for flag in self]


class Fallback(StrEnum):
    """What is done with an atomic operation that the link lacks."""

    MIGRATE = "migrate"
    EXCLUSIVE = "exclusive"
    CAS_LOOP = "cas-loop"
    FAULT = "fault"
    SILENT = "silent"

    @property
    def words(self) -> str:
        """What it does, in a sentence."""
        return _WORDS[self.value]


class Route(StrEnum):
    """The way an atomic operation goes: within the device, natively over the link, or by a fallback.

    DEVICE is that of operations on shared memory that are not of system scope: no link is asked for them.
    """

    LOCAL = "local"
    DEVICE = "device"
    NATIVE = "native"
    MIGRATE = "migrate"
    EXCLUSIVE = "exclusive"
    CAS_LOOP = "cas-loop"
    FAULT = "fault"
    SILENT = "silent"

    @property
    def words(self) -> str:
        """What happens, in a sentence."""
        return _WORDS[self.value]

    @property
    def verdict(self) -> str:
        """ "native" (in place or within the device), "migrations", "emulated" or "broken"."""
        return _VERDICTS[self]

    @property
    def is_broken(self) -> bool:
        """Whether the program stops, or goes on with a wrong result."""
        return self.verdict == "broken"


_WORDS = {
    "local": "the memory never leaves the device",
    "device": "performed in the device's memory, where the page moves as for a store; not atomic against the CPU",
    "native": "performed in place, over the link, where the page is",
    "migrate": "the CPU loses the page, which moves to the device; a CPU touch brings it back",
    "exclusive": "the page stays in host memory, and the CPU's mapping is taken away meanwhile",
    "cas-loop": "the device repeats compare-and-swap over the link; a CPU that hammers the word can starve it",
    "fault": "the kernel stops with an atomic access violation",
    "silent": "the operation is lost, as on much real hardware; for reproducing bugs only",
}
_VERDICTS = {
    Route.LOCAL: "native",
    Route.DEVICE: "migrations",
    Route.NATIVE: "native",
    Route.MIGRATE: "migrations",
    Route.EXCLUSIVE: "migrations",
    Route.CAS_LOOP: "emulated",
    Route.FAULT: "broken",
    Route.SILENT: "broken",
}
_SCALARS = {
    16: AtomicCapability.SCALAR_16,
    32: AtomicCapability.SCALAR_32,
    64: AtomicCapability.SCALAR_64,
    128: AtomicCapability.SCALAR_128,
}
_SIZES = AtomicCapability.VECTOR_32X4 | _SCALARS[16] | _SCALARS[32] | _SCALARS[64] | _SCALARS[128]
# Where a type's sign changes what the operation does. (An addition does not care, but CUDA's flags name it.)
_SIGN_MATTERS = {AtomicOperation.INTEGER_ADD, AtomicOperation.INTEGER_MIN, AtomicOperation.INTEGER_MAX}


@dataclass(frozen=True)
class Link:
    """What connects a device with the CPU.

    Attributes:
        name: what reports call it.
        bandwidth: bytes/s, each way.
        latency: seconds from a device's small read of host memory to its answer.
        fault_cost: seconds that the driver takes for a page fault of the device, without the copy.
        atomics: a capability for each `AtomicOperation`, in the order of its values; 0 where the link has none. It is
            the array that cudaDeviceGetHostAtomicCapabilities gives; `Link.capabilities` makes one from a dict.

    Raises:
        ArgumentError: a value that cannot be meant; it says which.
    """

    name: str
    bandwidth: float
    latency: float
    fault_cost: float
    atomics: tuple[AtomicCapability, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArgumentError(f"Link.name is a string that is not empty, not {self.name!r}")
        for field, least in (("bandwidth", "above 0"), ("latency", "0 or more"), ("fault_cost", "0 or more")):
            _check_number(f"link {self.name!r}: {field}", getattr(self, field), least)
        count = len(AtomicOperation)
        if not isinstance(self.atomics, tuple) or len(self.atomics) != count:
            raise ArgumentError(
                f"link {self.name!r}: atomics is a tuple of {count} capabilities, one for each AtomicOperation; "
                "Link.capabilities({...}) makes it from a dict"
            )
        for operation, flags in zip(AtomicOperation, self.atomics, strict=True):
            _check_flags(f"link {self.name!r}: {operation.cuda_name}", flags)

    @staticmethod
    def capabilities(table: Mapping[AtomicOperation, AtomicCapability]) -> tuple[AtomicCapability, ...]:
        """The tuple `Link.atomics` from capabilities by operation; operations that are not named have none.

        Raises:
            ArgumentError: a key is not an AtomicOperation.
        """
        for operation in table:
            if not isinstance(operation, AtomicOperation):
                names = ", ".join(o.name for o in AtomicOperation)
                raise ArgumentError(f"{operation!r} is not an AtomicOperation: {names}")
        return tuple(table.get(operation, AtomicCapability(0)) for operation in AtomicOperation)

    @classmethod
    def load(cls, path: str | Path) -> Link:
        """A link from a TOML file (docs/atomics.md). `base` names a profile that gives what the file leaves out.

        Raises:
            ArgumentError: the file cannot be read, is not TOML, or says something that cannot be meant.
        """
        import tomllib  # most programs need it never

        try:
            said = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(f"link file {path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise ArgumentError(f"link file {path} is not TOML: {error}") from None
        try:
            return _from_table(said, Path(path).stem)
        except ArgumentError as error:
            raise ArgumentError(f"link file {path}: {error}") from None

    def native(self, operation: AtomicOperation, bits: int, *, signed: bool = False, lanes: int = 1) -> bool:
        """Whether the link performs an operation in place on `lanes` elements of `bits` each.

        Elements of a vector are atomic one by one, as in CUDA: float4 is 4 lanes of 32 bits, __half2 2 of 16.
        """
        flags = self.atomics[operation]
        needed = _SCALARS.get(bits)
        if needed is None:
            return False
        if lanes > 1 and bits == 32:
            needed = AtomicCapability.VECTOR_32X4
        if operation in _SIGN_MATTERS:
            needed |= AtomicCapability.SIGNED if signed else AtomicCapability.UNSIGNED
        return needed in flags

    def route(
        self,
        operation: AtomicOperation,
        bits: int,
        *,
        signed: bool = False,
        lanes: int = 1,
        fallback: Fallback | str = Fallback.MIGRATE,
    ) -> Route:
        """The way of an operation on a page in host memory. A cas-loop without a native CAS ends in a fault.

        Raises:
            ArgumentError: there is no such fallback.
        """
        way = find_fallback(fallback)
        if self.native(operation, bits, signed=signed, lanes=lanes):
            return Route.NATIVE
        if way is Fallback.CAS_LOOP and not self.native(AtomicOperation.CAS, max(bits, 32)):
            return Route.FAULT
        return Route(way.value)

    def native_mask(self, *, signed: bool) -> int:
        """The operations that are native on signed or unsigned types, one bit each: hmm_link in abi.h."""
        scalars = sum(
            1 << (4 * operation + size)
            for operation in AtomicOperation
            for size, bits in enumerate(_SCALARS)
            if self.native(operation, bits, signed=signed)
        )
        vector = 1 << (4 * AtomicOperation.FLOAT_ADD + 3)  # in the place of 128 bits
        has_vector = self.native(AtomicOperation.FLOAT_ADD, 32, lanes=4)
        return scalars | vector if has_vector else scalars & ~vector

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; operations and capabilities by CUDA's names."""
        plain = {key: getattr(self, key) for key in ("name", "bandwidth", "latency", "fault_cost")}
        named = {o.cuda_name: self.atomics[o].cuda_names for o in AtomicOperation}
        return {**plain, "atomics": named}


def links() -> tuple[Link, ...]:
    """The profiles that come with hmmemu, from the least capable link to the most."""
    return _PROFILES


def find_link(link: Link | str) -> Link:
    """A link by itself, by the name of a profile, by the path of a TOML file (what ends in .toml), or a GPU's own.

    "gpu" is the link of the first GPU here, "cuda:N" that of another (gpu_link.py).

    Raises:
        ArgumentError: there is none; the message lists the profiles. Or the file is wrong.
        UnsupportedError: there is no such GPU.
    """
    if isinstance(link, Link):
        return link
    if not isinstance(link, str):
        raise ArgumentError(f"a link is a name or an hmm.Link, not {type(link).__name__}")
    if link.endswith(".toml"):
        return Link.load(link)
    if link == "gpu" or link.startswith("cuda"):
        from hmmemu.gpu_link import find_gpu_link

        return find_gpu_link(link)[0]
    return _profile(link, ", a .toml file, or gpu")


def _profile(name: object, other: str = "") -> Link:
    found = next((profile for profile in _PROFILES if profile.name == name), None)
    if found is None:
        names = ", ".join(profile.name for profile in _PROFILES)
        raise ArgumentError(f"there is no link {name!r}; use one of {names}{other}")
    return found


def find_fallback(name: Fallback | str) -> Fallback:
    """A fallback by name. Raises ArgumentError, with the names there are."""
    try:
        return Fallback(name)
    except ValueError:
        raise ArgumentError(f"there is no fallback {name!r}; use one of {', '.join(Fallback)}") from None


# -- checks and files -----------------------------------------------------------------------------------------------


def _cuda_name(name: str) -> str:
    words = name.split("_")
    kept = {"CAS", "XOR"}  # written so in CUDA: cudaAtomicOperationCAS, cudaAtomicOperationXOR
    return "".join(word if word in kept else word.capitalize() for word in words).replace("X4", "x4")


def _check_number(what: str, value: object, least: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and least == "above 0"):  # type: ignore[arg-type, operator]
        raise ArgumentError(f"{what} is a number {least}, not {value!r}")


def _check_flags(what: str, flags: object) -> None:
    if not isinstance(flags, AtomicCapability):
        raise ArgumentError(f"{what} is an AtomicCapability, not {flags!r}")
    if flags and not flags & _SIZES:
        sizes = ", ".join(_SIZES.cuda_names)
        raise ArgumentError(f"{what} has flags {flags.cuda_names} but no size; add one of {sizes}")


_FIELDS = ("bandwidth", "latency", "fault_cost")


def _from_table(said: dict[str, Any], stem: str) -> Link:
    unknown = sorted(said.keys() - {"name", "base", "atomics", *_FIELDS})
    if unknown:
        raise ArgumentError(
            f"unknown keys {unknown}; there are name, base, {', '.join(_FIELDS)} and [atomics]"
        )
    values = {key: said[key] for key in _FIELDS if key in said}
    name = said.get("name", stem)
    if "atomics" in said:
        values["atomics"] = _atomics(said["atomics"])
    if "base" in said:
        return replace(_profile(said["base"]), name=name, **values)
    missing = [key for key in (*_FIELDS, "atomics") if key not in values]
    if missing:
        raise ArgumentError(f"{', '.join(missing)} missing; give them, or a base (base = 'pcie4')")
    return Link(name=name, **values)


def _atomics(table: object) -> tuple[AtomicCapability, ...]:
    if not isinstance(table, dict):
        raise ArgumentError(
            "[atomics] is a table: IntegerAdd = ['Signed', 'Unsigned', 'Scalar32', 'Scalar64']"
        )
    operations = {o.cuda_name: o for o in AtomicOperation}
    capabilities = {_cuda_name(flag.name or ""): flag for flag in AtomicCapability}
    found = {}
    for name, flags in table.items():
        if name not in operations:
            raise ArgumentError(f"[atomics] {name}: no such operation; there are {', '.join(operations)}")
        if not isinstance(flags, list):
            raise ArgumentError(f"[atomics] {name} is a list of capabilities, not {flags!r}")
        for flag in flags:
            if flag not in capabilities:
                raise ArgumentError(
                    f"[atomics] {name}: no capability {flag!r}; there are {', '.join(capabilities)}"
                )
        found[operations[name]] = AtomicCapability(sum(capabilities[flag] for flag in set(flags)))
    return Link.capabilities(found)


# -- the profiles ---------------------------------------------------------------------------------------------------
#
# Atomics. PCIe: PCI Express Base Specification, section "Atomic Operations (AtomicOps)": FetchAdd and Swap of 32 and
# 64 bits, CAS of 32, 64 and 128. NVLink and NVLink-C2C: "The Grace Hopper Superchip Architecture" (NVIDIA whitepaper,
# 2022) and the CUDA programming guide: hardware coherent, with native atomics of all kinds between CPU and GPU.
# CXL: Das Sharma, Blankenship, Berger, "An Introduction to the Compute Express Link (CXL) Interconnect" (2023): a
# device takes the cache line for itself (CXL.cache) and performs whatever operation it has there.
#
# Bandwidth, each way, 16 lanes: the lane rate after line coding, before packet headers; the specification's 8, 16, 32
# GT/s with 128b/130b, 64 GT/s with 242 of 256 bytes of a flit. CXL 2 runs on PCIe 5. NVLink: three NVLink 2.0 links of
# 25 GB/s between POWER9 and V100 (Lutz et al., "Pump Up the Volume", SIGMOD 2020). C2C: 450 GB/s (the whitepaper).
#
# Latency: 790 ns over PCIe 3 and 434 ns over NVLink 2.0, measured by Lutz et al.; later PCIe generations raise the rate
# of the lanes, and C2C is given NVLink's figure, for want of measurements that can be compared. CXL: 250 ns, of the
# order of what Sun et al., "Demystifying CXL Memory with Genuine CXL-Ready Systems and Devices" (MICRO 2023), measure.
#
# Fault cost: 20 to 50 us (Zheng et al., "Towards High Performance Paged Memory for GPUs", HPCA 2016), nearly all of it
# software, hence the same for every link; the lower end.

_O, _C = AtomicOperation, AtomicCapability
_BOTH = _C.SIGNED | _C.UNSIGNED
_WORDS_32_64 = _C.SCALAR_32 | _C.SCALAR_64

NO_ATOMICS = Link.capabilities({})
PCIE_ATOMICS = Link.capabilities(
    {
        _O.INTEGER_ADD: _BOTH | _C.REDUCTION | _WORDS_32_64,
        _O.EXCHANGE: _BOTH | _WORDS_32_64,
        _O.CAS: _BOTH | _WORDS_32_64 | _C.SCALAR_128,
    }
)
# Everything that CUDA C++ has, in the sizes in which it has it.
ALL_ATOMICS = Link.capabilities(
    {
        **{o: _BOTH | _C.REDUCTION | _WORDS_32_64 for o in (_O.INTEGER_ADD, _O.INTEGER_MIN, _O.INTEGER_MAX)},
        **{
            o: _C.UNSIGNED | _C.REDUCTION | _C.SCALAR_32 for o in (_O.INTEGER_INCREMENT, _O.INTEGER_DECREMENT)
        },
        **{o: _BOTH | _C.REDUCTION | _WORDS_32_64 for o in (_O.AND, _O.OR, _O.XOR)},
        _O.EXCHANGE: _BOTH | _WORDS_32_64 | _C.SCALAR_128,
        _O.CAS: _BOTH | _C.SCALAR_16 | _WORDS_32_64 | _C.SCALAR_128,
        _O.FLOAT_ADD: _C.REDUCTION | _C.SCALAR_16 | _WORDS_32_64 | _C.VECTOR_32X4,
        **{o: _C.REDUCTION | _WORDS_32_64 for o in (_O.FLOAT_MIN, _O.FLOAT_MAX)},
    }
)


def pcie_bandwidth(gigatransfers: float, lanes: int) -> float:
    """Bytes/s each way of PCIe lanes: 8b/10b below 8 GT/s, 128b/130b from there on, flits from 64 GT/s on."""
    coded = 8 / 10 if gigatransfers < 8 else 128 / 130 if gigatransfers < 64 else 242 / 256
    return lanes * gigatransfers * 1e9 / 8 * coded


def _pcie(name: str, gigatransfers: float, atomics: tuple[AtomicCapability, ...]) -> Link:
    return Link(name, pcie_bandwidth(gigatransfers, 16), 790e-9, 20e-6, atomics)


_PROFILES = (
    _pcie("pcie3-noatomics", 8, NO_ATOMICS),
    _pcie("pcie3", 8, PCIE_ATOMICS),
    _pcie("pcie4", 16, PCIE_ATOMICS),
    _pcie("pcie5", 32, PCIE_ATOMICS),
    _pcie("pcie6", 64, PCIE_ATOMICS),
    replace(_pcie("cxl", 32, ALL_ATOMICS), latency=250e-9),
    Link("nvlink", 75e9, 434e-9, 20e-6, ALL_ATOMICS),
    Link("nvlink-c2c", 450e9, 434e-9, 20e-6, ALL_ATOMICS),
)

__all__ = [
    "AtomicCapability",
    "AtomicOperation",
    "Fallback",
    "Link",
    "Route",
    "find_fallback",
    "find_link",
    "links",
]
