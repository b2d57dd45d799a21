"""Which device and which tracker an address space gets: the options, the environment, what this machine has."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

from hmmemu.errors import ArgumentError, Error, FallbackWarning, UnsupportedError
from hmmemu.trackers import NAMES, Tracker, best, probe, probe_all

if TYPE_CHECKING:
    from hmmemu.gpus import Gpu

MOST_DEVICES = 15
_told: set[str] = set()  # topics of warnings that were given


class Choice(NamedTuple):
    """What one device of a space is to be: a GPU, or None for an emulated one; why; whether nobody asked for it."""

    gpu: Gpu | None
    why: str
    auto: bool = False


def choose_devices(device: str | Sequence[str], count: int) -> list[Choice]:
    """What each device of a space is to be, and why: `count` of one kind, or one for each name of a list.

    Args:
        device: as for `choose_device`; several as a list, or with commas between them.
        count: how many; 1 with several names.

    Raises:
        ArgumentError: no such device, or a wrong number of them. UnsupportedError: one cannot be had here.
    """
    if not (isinstance(count, SupportsIndex) and 1 <= index(count) <= MOST_DEVICES):
        raise ArgumentError(f"devices={count!r}: an address space has 1 to {MOST_DEVICES}")
    if isinstance(device, bytes) or not all(
        isinstance(name, str) for name in (device if isinstance(device, Sequence) else [device])
    ):
        raise ArgumentError(f"device={device!r}: a name, as 'emulated' or 'cuda:0', or a list of names")
    environment = os.environ.get("HMMEMU_DEVICE", "")
    asked = environment if device == "auto" and "," in environment else device
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    if len(names) == 1:
        asked_for = (environment or "auto") if names[0] == "auto" else names[0]
        return _choose_any(count) if asked_for == "auto" else [choose_device(names[0])] * count
    if count != 1 or not 1 < len(names) <= MOST_DEVICES:
        raise ArgumentError(
            f"device={asked!r}, devices={count}: name a kind and say how many, or name 1 to {MOST_DEVICES} devices"
        )
    if "auto" in names:
        raise ArgumentError(f"device={asked!r}: 'auto' stands alone; name 'emulated', 'cuda' or 'cuda:N'")
    return [choose_device(name) for name in names]


def choose_device(device: str) -> Choice:
    """The device of that name; "auto" is what HMMEMU_DEVICE says, or else a GPU that can be used.

    Raises:
        ArgumentError: no such device. UnsupportedError: it cannot be had here.
    """
    asked = (os.environ.get("HMMEMU_DEVICE") or "auto") if device == "auto" else device
    if asked == "auto":
        return _choose_any(1)[0]
    why = "asked for" if device != "auto" else f"HMMEMU_DEVICE={asked}"
    if asked == "emulated":
        return Choice(None, why)
    if asked.startswith("cuda"):
        from hmmemu.gpus import choose_gpu

        return Choice(choose_gpu(asked), why)
    raise ArgumentError(f"device={asked!r}: use 'auto', 'emulated' or 'cuda' ('cuda:1' is the second GPU)")


def _choose_any(count: int) -> list[Choice]:
    """The first GPUs, if all of them can be used; else emulated devices."""
    from hmmemu.gpus import choose_gpu, why_no_driver

    try:
        if reason := why_no_driver():
            raise UnsupportedError(reason)
        gpus = [choose_gpu(f"cuda:{index}") for index in range(count)]
    except UnsupportedError as error:
        return [Choice(None, f"device='auto', and no GPU can be used: {error}")] * count
    return [Choice(gpu, "device='auto'; the CUDA device has not yet run on a GPU", auto=True) for gpu in gpus]


def tell_gpu(choices: Sequence[Choice]) -> None:
    """A warning, once a process, if one of these devices is a GPU that nobody asked for."""
    taken = [str(choice.gpu) for choice in choices if choice.auto]
    if taken:
        _tell_once(
            "device",
            f"kernels run on {' and '.join(taken)}, and hmmemu's CUDA device has not yet run on a GPU: check results "
            "(device='emulated' or HMMEMU_DEVICE=emulated takes an emulated device, 'cuda' says that this is meant)",
            stacklevel=4,
        )


def instead(choices: Sequence[Choice], error: Error) -> list[Choice]:
    """Emulated devices in the place of GPUs that nobody asked for, and with which a space cannot be opened.

    Raises:
        Error: the one that was given, if they were asked for.
    """
    gpu = next((choice.gpu for choice in choices if choice.auto), None)
    if gpu is None:
        raise error
    _tell_once("instead", f"kernels run on an emulated device, as {gpu} does not do: {error}", stacklevel=4)
    return [Choice(None, f"device='auto', and {gpu} does not do: {error}")] * len(choices)


def choose_tracker(tracker: str) -> tuple[str, str]:
    """The tracker to use, and why that one.

    Raises:
        ArgumentError: no such tracker.
        UnsupportedError: it cannot work here, or, for "auto", none can.
    """
    asked = (os.environ.get("HMMEMU_TRACKER") or "auto") if tracker == "auto" else tracker
    if asked == "auto":
        found, why = _best_tracker()
        if not found.system_calls:
            _tell_once(
                "tracker",
                f"accesses are caught by tracker {found.name!r}: {why} "
                "(tracker=... or HMMEMU_TRACKER=... says that this is meant)",
                stacklevel=4,
            )
        return found.name, why
    if asked not in NAMES:
        names = ", ".join(repr(name) for name in NAMES)
        raise ArgumentError(f"tracker={asked!r}: use 'auto' or one of {names}")
    found = probe(asked)
    if not found.usable:
        advice = f" ({found.advice})" if found.advice else ""
        raise UnsupportedError(
            f"tracker {asked!r} cannot work here: {found.words}{advice}; `hmmemu doctor` lists those that can"
        )
    return asked, "asked for" if tracker != "auto" else f"HMMEMU_TRACKER={asked}"


def _best_tracker() -> tuple[Tracker, str]:
    """The tracker that "auto" takes, and why it has to be that one."""
    found = best()
    if found is None:
        reasons = "; ".join(f"{t.name}: {t.words}" for t in probe_all())
        raise UnsupportedError(f"accesses to shared memory cannot be caught here. {reasons}")
    if found.name == "uffd":
        return found, found.words
    return found, f"{found.words}. Not 'uffd': {probe('uffd').words}"


def _tell_once(topic: str, words: str, stacklevel: int) -> None:
    """A FallbackWarning, once a process for each topic."""
    if topic not in _told:
        _told.add(topic)
        warnings.warn(words, FallbackWarning, stacklevel)
