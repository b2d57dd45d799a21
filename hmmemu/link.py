"""Links between CPU and device: how fast one is, and which atomic operations it carries.

What a link lacks has to be done in another way, a `Fallback`; `Link.route` says which way an operation goes. The
figures of those that come with hmmemu are in `link_figures.py`.

Everything here is immutable, so no lock guards it. (The module is not called `links`: `hmm.links` is a function.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hmmemu.capabilities import (
    SCALARS,
    SIGN_MATTERS,
    AtomicCapability,
    AtomicOperation,
    check_flags,
    in_order,
)
from hmmemu.errors import ArgumentError
from hmmemu.link_figures import PROFILES
from hmmemu.routes import Fallback, Route, find_fallback


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
            check_flags(f"link {self.name!r}: {operation.cuda_name}", flags)

    @staticmethod
    def capabilities(table: Mapping[AtomicOperation, AtomicCapability]) -> tuple[AtomicCapability, ...]:
        """The tuple `Link.atomics` from capabilities by operation; operations that are not named have none.

        Raises:
            ArgumentError: a key is not an AtomicOperation.
        """
        return in_order(table)

    @classmethod
    def load(cls, path: str | Path) -> Link:
        """A link from a TOML file (docs/atomics.md). `base` names a profile that gives what the file leaves out.

        Raises:
            ArgumentError: the file cannot be read, is not TOML, or says something that cannot be meant.
        """
        from hmmemu.link_file import read_link_file  # most programs need it never

        said = read_link_file(path)
        base = said.pop("base", None)
        try:
            return Link(**said) if base is None else replace(profile(base), **said)
        except ArgumentError as error:
            raise ArgumentError(f"link file {path}: {error}") from None

    def native(self, operation: AtomicOperation, bits: int, *, signed: bool = False, lanes: int = 1) -> bool:
        """Whether the link performs an operation in place on `lanes` elements of `bits` each.

        Elements of a vector are atomic one by one, as in CUDA: float4 is 4 lanes of 32 bits, __half2 2 of 16.
        """
        flags = self.atomics[operation]
        needed = SCALARS.get(bits)
        if needed is None:
            return False
        if lanes > 1 and bits == 32:
            needed = AtomicCapability.VECTOR_32X4
        if operation in SIGN_MATTERS:
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
            for size, bits in enumerate(SCALARS)
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


def profile(name: object, other: str = "") -> Link:
    """A profile by its name. Raises ArgumentError, with the names there are and `other`, what may be named besides."""
    found = next((profile for profile in _PROFILES if profile.name == name), None)
    if found is None:
        names = ", ".join(profile.name for profile in _PROFILES)
        raise ArgumentError(f"there is no link {name!r}; use one of {names}{other}")
    return found


def _check_number(what: str, value: object, least: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and least == "above 0"):  # type: ignore[arg-type, operator]
        raise ArgumentError(f"{what} is a number {least}, not {value!r}")


_PROFILES = tuple(Link(*figures) for figures in PROFILES)
