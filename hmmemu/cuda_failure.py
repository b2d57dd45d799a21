"""What CUDA says of a launch that failed, as the error that an emulated device would raise. No state."""

from __future__ import annotations

import re
from typing import Any

from hmmemu.errors import DeviceError, KernelAssertion, KernelError, KernelFault, KernelTimeout

_ASSERT = 710
_LOST = "What the GPU alone had is lost"  # keeper.cpp
_REHEARSE = "the GPU does not say where: run it on device='emulated', which names thread, address and array"

# By CUresult: the error, what happened, and what to do.
_RESULTS: dict[int, tuple[type[DeviceError], str, str]] = {
    700: (
        KernelFault,
        "illegal access to an address",
        "memory that the launch does not name? (reaches=[array]; AddressSpace(device='emulated', check_reach=True) "
        f"finds it). If not, {_REHEARSE}",
    ),
    701: (
        KernelError,
        "the launch needs more registers or shared memory than a multiprocessor has",
        "use smaller blocks, or __launch_bounds__ in the source",
    ),
    702: (
        KernelTimeout,
        "the driver ended it after some seconds, as on a GPU that has a display",
        "split the work into shorter launches, or use a GPU without a display",
    ),
    714: (KernelFault, "a stack is damaged or full", f"local arrays? recursion? {_REHEARSE}"),
    715: (KernelError, "illegal instruction", f"was it compiled for this GPU? Otherwise {_REHEARSE}"),
    716: (KernelFault, "misaligned address", f"T* needs a multiple of sizeof(T). {_REHEARSE}"),
    717: (KernelFault, "an access to memory of the wrong kind (global, shared, local)", _REHEARSE),
    718: (KernelFault, "a jump to an address that is no code", f"a bad function pointer? {_REHEARSE}"),
    719: (KernelError, "it failed, by __trap() or for a reason that CUDA does not tell", _REHEARSE),
}


def describe_gpu_failure(crash: dict[str, Any], afterwards: str) -> DeviceError:
    """The error for a record of kind "gpu": `code`, CUDA's result; `message`, its words and then what it wrote.

    Args:
        crash: the record (`DeviceProcess.crash`).
        afterwards: what has become of the device.
    """
    message, lost, rest = str(crash["message"]).partition(_LOST)
    afterwards = f"{lost}{rest} {afterwards}".strip()
    words, _, written = message.partition("\n")
    where = f"kernel {crash['kernel']}"
    if crash["code"] == _ASSERT:
        failed = re.search(
            r"^.*: block: \[.*\], thread: \[.*\] Assertion [`'].*[`'] failed\.?$", written, re.MULTILINE
        )
        text = failed[0] if failed else f"{where}: an assertion failed, CUDA does not say which"
        return KernelAssertion(f"{text} {lost}{rest}".strip())
    kind, what, advice = _RESULTS.get(crash["code"], (DeviceError, "", ""))
    if not what:
        return DeviceError(f"{words}. {afterwards}")
    return kind(f"{where}: {what} ({words}); {advice}. {afterwards}")


def add_losses(error: DeviceError, crash: dict[str, Any] | None) -> None:
    """What nobody could save of a device that was stopped, behind the words of the error for that.

    Args:
        error: gets the words.
        crash: the record (`DeviceProcess.crash`), or None.
    """
    _, lost, rest = str(crash["message"] if crash else "").partition(_LOST)
    if lost:
        error.args = (f"{error}. {lost}{rest}",)
