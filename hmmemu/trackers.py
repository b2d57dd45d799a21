"""The trackers: the ways to catch the CPU's accesses to shared memory, and whether each works on this machine.

Every answer comes from trying it on a page of memory (native/os/probe.h). Nothing is remembered: a program may
lose a right, to a seccomp filter for one, between two questions. No state, so no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hmmemu import _native

NAMES = ("uffd", "signal", "async")
IMPLEMENTED: tuple[str, ...] = ("uffd", "signal", "async")  # those that the driver of this version has

USERFAULTFD_ADVICE = (
    "as root: sysctl vm.unprivileged_userfaultfd=1, or give your user access to /dev/userfaultfd; "
    "in Docker: --device /dev/userfaultfd, or --cap-add SYS_PTRACE and a seccomp profile that allows it"
)


@dataclass(frozen=True)
class Tracker:
    """One way to catch accesses, on this machine.

    Attributes:
        name: one of `NAMES`.
        usable: whether it works here at all.
        system_calls: whether accesses by system calls are caught as those of the program itself are.
        words: what it does here, or why it cannot work.
        advice: what to change for more; empty if there is nothing to gain.
    """

    name: str
    usable: bool
    system_calls: bool
    words: str
    advice: str = ""


def probe(name: str) -> Tracker:
    """What a tracker can do here; KeyError if there is none of this name."""
    found = _PROBES[name]()
    if name in IMPLEMENTED:
        return found
    return Tracker(name, False, False, "this version of hmmemu does not have it yet")


def probe_all() -> list[Tracker]:
    """All trackers, in the order of `NAMES`."""
    return [probe(name) for name in NAMES]


def best() -> Tracker | None:
    """What "auto" means here: `uffd` where it catches everything, else `signal`, else `uffd` as far as it goes.

    None if nothing works. Never `async`, which is another contract: it notices writes at calls of the library.
    """
    uffd = probe("uffd")
    if uffd.system_calls:
        return uffd
    signal = probe("signal")
    return signal if signal.usable else uffd if uffd.usable else None


def _probe_uffd() -> Tracker:
    found = _native.probe()
    way, reason = str(found.get("userfaultfd", "none")), str(found.get("reason", ""))
    usable = way != "none" and "Linux 5.19" not in reason
    everything = usable and way != "user-mode"
    return Tracker(
        "uffd", usable, everything, reason or "not allowed", "" if everything else USERFAULTFD_ADVICE
    )


def _probe_signal() -> Tracker:
    why = _native.why_no_signal_tracker()
    words = (
        "every load and store is caught; system calls on pages that are away fail with EFAULT: prefetch them"
    )
    return Tracker("signal", not why, False, why or words)


def _probe_async() -> Tracker:
    why = _native.why_no_async_tracker()
    words = "stores are noticed at launches, at synchronize and other calls of the library"
    return Tracker("async", not why, _probe_uffd().system_calls, why or words)


_PROBES: dict[str, Callable[[], Tracker]] = {
    "uffd": _probe_uffd,
    "signal": _probe_signal,
    "async": _probe_async,
}
