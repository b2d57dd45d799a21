"""Which device and which tracker an address space gets: the options, the environment, what this machine has."""

from __future__ import annotations

import os
import warnings

from hmmemu.errors import ArgumentError, FallbackWarning, UnsupportedError

_told_fallback = False


def choose_device(device: str) -> str:
    """Why the emulated device is used.

    Raises:
        ArgumentError: no such device. UnsupportedError: it cannot be had here.
    """
    asked = os.environ.get("HMMEMU_DEVICE", "auto") if device == "auto" else device
    if asked == "emulated":
        return "asked for" if device != "auto" else "HMMEMU_DEVICE=emulated"
    if asked == "auto":
        _tell_fallback()
        return "device='auto', and this version has no CUDA device yet"
    if asked.startswith("cuda"):
        raise UnsupportedError("CUDA devices are not supported yet: use device='emulated' (or 'auto')")
    raise ArgumentError(f"device={asked!r}: use 'auto', 'emulated' or 'cuda'")


def choose_tracker(tracker: str) -> str:
    """The tracker to use.

    Raises:
        ArgumentError: no such tracker.
    """
    asked = os.environ.get("HMMEMU_TRACKER", "auto") if tracker == "auto" else tracker
    if asked not in ("auto", "uffd"):
        raise ArgumentError(f"tracker={asked!r}: use 'auto' or 'uffd'")
    return "uffd"


def _tell_fallback() -> None:
    """Says once a process that nothing runs on a GPU."""
    global _told_fallback
    if not _told_fallback:
        _told_fallback = True
        warnings.warn(
            "kernels run on an emulated device: this version of hmmemu has no CUDA device yet "
            "(device='emulated' or HMMEMU_DEVICE=emulated says that this is meant)",
            FallbackWarning,
            stacklevel=4,
        )
