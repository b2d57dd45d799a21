"""The exception tree: everything hmmemu raises on purpose is an `Error`.

Each message names the array, page, address, kernel or option it is about and says what to do next.
Errors that Python users already know how to catch also derive from the built-in class of that meaning.
"""

from __future__ import annotations


class Error(Exception):
    """Base of all errors raised by hmmemu."""


class UnsupportedError(Error, NotImplementedError):
    """This machine, tracker or kind of memory cannot do what was asked."""


class SpaceClosedError(Error, RuntimeError):
    """The address space was closed, or belongs to the process this one was forked from."""


class ArgumentError(Error, TypeError):
    """An argument of a kernel, or of a call on memory, is wrong; nothing was changed."""


class RangeError(Error, ValueError):
    """An address range is not, or is already, part of the address space."""


class TruncatedError(RangeError):
    """An access behind the end of a file that was truncated."""


class OutOfMemoryError(Error, MemoryError):
    """The arena or a device has no room left."""


class ViewError(Error, RuntimeError):
    """Memory that a device view uses was, or would be, used by others; the address space stays usable."""


class CompileError(Error):
    """The compiler refused a kernel; the message holds the user's own file name and lines."""


class NoCompilerError(CompileError):
    """There is no C++ compiler on this machine; the message says how to get one."""


class DeviceError(Error, RuntimeError):
    """A device failed; the address space stays usable."""


class KernelError(DeviceError):
    """A kernel stopped before its end."""


class KernelFault(KernelError):
    """A kernel touched an address that nobody owns."""


class KernelAssertion(KernelError):
    """An `assert` or `__trap` in a kernel fired."""


class KernelTimeout(KernelError, TimeoutError):
    """A kernel did not end in time and was stopped."""


class FallbackWarning(UserWarning):
    """What "auto" took is slower, simpler or less tried than what it can mean; told once."""


class FileConflictWarning(UserWarning):
    """A page of a file was written by a device and by another program; the file's content was kept."""
