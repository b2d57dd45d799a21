"""The ways that an atomic operation can go, and what is done where the link lacks it.

Everything here is immutable, so no lock guards it.
"""

from __future__ import annotations

from enum import StrEnum

from hmmemu.errors import ArgumentError


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


def find_fallback(name: Fallback | str) -> Fallback:
    """A fallback by name. Raises ArgumentError, with the names there are."""
    try:
        return Fallback(name)
    except ValueError:
        raise ArgumentError(f"there is no fallback {name!r}; use one of {', '.join(Fallback)}") from None
