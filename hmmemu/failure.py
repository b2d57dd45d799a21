"""From a device's crash record to an error that a programmer can act on."""

from __future__ import annotations

import errno
import signal
from typing import Any

from hmmemu.arena import PAGE, page_down
from hmmemu.errors import DeviceError, KernelAssertion, KernelError, KernelFault, OutOfMemoryError
from hmmemu.memory import Memory
from hmmemu.truncation import describe

_AFTERWARDS = "The device was started again and its memory came home; what the kernel wrote is undefined."


def describe_crash(
    crash: dict[str, Any] | None, refused: int, refused_errno: int, memory: Memory
) -> DeviceError:
    """The error for a device process that ended.

    Args:
        crash: the record that it left (`DeviceProcess.crash`), or None.
        refused: the last address that the driver refused to it, 0 if none; `refused_errno` says why.
        memory: of the space, to name the array nearest to an address.
    """
    if crash and crash["kind"] == "kernel":  # what is refused to a process that ends is no reason
        text = str(crash["message"])
        if crash["failure"] == "atomic":
            text = f"{_where(crash)}: {text}. {_AFTERWARDS}"
        return KernelAssertion(text) if crash["failure"] in ("assert", "trap") else KernelError(text)
    if crash and crash["kind"] == "gpu":
        from hmmemu.cuda_failure import describe_gpu_failure

        return describe_gpu_failure(crash, _AFTERWARDS)
    if refused and refused_errno in (errno.ENXIO, errno.EIO):
        where = _where(crash) if crash else "the device"
        return KernelFault(f"{where}: illegal access to {refused:#x}: {describe(refused)}. {_AFTERWARDS}")
    if refused and refused_errno in (errno.EACCES, errno.EROFS):
        return _beyond_reach(crash, refused, refused_errno, memory)
    if refused and refused_errno == errno.EPERM:
        where = _where(crash) if crash else "the device"
        nearest = memory.whereabouts(refused)
        return KernelFault(
            f"{where}: write to {refused:#x}, memory mapped read-only; {nearest}. {_AFTERWARDS}"
        )
    if refused and refused_errno != errno.EFAULT:
        cause = OutOfMemoryError(f"page {refused:#x}: errno {refused_errno}")
        error = DeviceError(f"the device has no memory for page {refused:#x}. {_AFTERWARDS}")
        error.__cause__ = cause
        return error
    if crash is None:
        return DeviceError(
            f"the device process was killed (by the system, for want of memory?). {_AFTERWARDS}"
        )
    if crash["kind"] != "signal":
        return DeviceError(f"{crash['message']} {_AFTERWARDS}")
    return _signal(crash, refused, memory)


def _beyond_reach(
    crash: dict[str, Any] | None, refused: int, refused_errno: int, memory: Memory
) -> KernelFault:
    """Memory that the launch does not name (`AddressSpace(check_reach=True)`)."""
    address = crash["address"] if crash and crash["address_known"] else refused
    where = _where(crash) if crash else "the device"
    found = memory.nearest(address)
    if found is None:
        array = "memory that was freed meanwhile"
    else:
        page = page_down(address) - page_down(found[0])
        array = f"page {page // PAGE} of the {found[2]} at {found[0]:#x}"
    if refused_errno == errno.EROFS:
        return KernelFault(
            f"{where}: write to {address:#x}, {array}, which this launch says it only reads (const T*, hmm.In): what a "
            f"GPU writes there is lost; name it hmm.InOut(array). {_AFTERWARDS}"
        )
    return KernelFault(
        f"{where}: access to {address:#x}, {array}, which this launch does not name: a GPU would not have it; launch "
        "with reaches=[array] (hmm.In(array) if it is only read), or open the space with "
        f"policy=hmm.Policy(reaches='registered'). {_AFTERWARDS}"
    )


def _signal(crash: dict[str, Any], refused: int, memory: Memory) -> DeviceError:
    where = _where(crash)
    if crash["stack_overflow"]:
        return KernelFault(
            f"{where}: a thread's stack is full (64 KiB: local arrays, recursion). {_AFTERWARDS}"
        )
    if crash["signal"] in (signal.SIGSEGV, signal.SIGBUS):
        address = crash["address"] if crash["address_known"] else refused
        access = {"read": "read from", "write": "write to"}.get(crash["access"], "access to")
        if address is None or not (crash["address_known"] or refused):
            return KernelFault(f"{where}: illegal {access} an unknown address. {_AFTERWARDS}")
        nearest = memory.whereabouts(address)
        return KernelFault(
            f"{where}: illegal {access} {address:#x}, which nobody owns; {nearest}. {_AFTERWARDS}"
        )
    name = {signal.SIGFPE: "integer division by zero", signal.SIGILL: "illegal instruction"}.get(
        crash["signal"], f"signal {crash['signal']}"
    )
    return KernelError(f"{where}: {name}. {_AFTERWARDS}")


def _where(crash: dict[str, Any]) -> str:
    if not crash["in_kernel"]:
        return "the device process failed outside of any kernel"
    text = f"kernel {crash['kernel']}"
    if crash["block_known"]:
        text += f", block {_triple(crash['block'])}"
    if crash["thread_known"]:
        text += f", thread {_triple(crash['thread'])}"
    line = _source_line(crash)
    return f"{text}, {line}" if line else text


def _triple(value: Any) -> str:
    return "[{},{},{}]".format(*value)


def _source_line(crash: dict[str, Any]) -> str | None:
    """ "file:line" of the instruction, if the module has line tables and addr2line (binutils) is there."""
    import shutil  # here: a program whose kernels do not fail should not carry their libraries through each fork
    import subprocess

    tool = shutil.which("addr2line")
    if not tool or not crash["module"].endswith(".so"):
        return None
    command = [tool, "-e", crash["module"], hex(crash["module_offset"])]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=5, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if not answer or answer.startswith("??") or answer.endswith(":?") else answer.split(" ")[0]
