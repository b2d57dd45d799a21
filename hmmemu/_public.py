"""The public names of hmmemu, nothing else; `hmmemu/__init__.py` gives them out when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from hmmemu.arguments import In, InOut, Out
from hmmemu.capabilities import AtomicCapability, AtomicOperation
from hmmemu.cpu_atomics import (
    atomic_add,
    atomic_and,
    atomic_cas,
    atomic_dec,
    atomic_exch,
    atomic_inc,
    atomic_load,
    atomic_max,
    atomic_min,
    atomic_or,
    atomic_store,
    atomic_sub,
    atomic_xor,
)
from hmmemu.creation import (
    array,
    asarray,
    device_view,
    empty,
    empty_like,
    full,
    full_like,
    ones,
    ones_like,
    register,
    stats,
    synchronize,
    unregister,
    zeros,
    zeros_like,
)
from hmmemu.device import Device
from hmmemu.device_view import DeviceView
from hmmemu.errors import (
    ArgumentError,
    CompileError,
    DeviceError,
    Error,
    FallbackWarning,
    FileConflictWarning,
    KernelAssertion,
    KernelError,
    KernelFault,
    KernelTimeout,
    NoCompilerError,
    OutOfMemoryError,
    RangeError,
    SpaceClosedError,
    TruncatedError,
    UnsupportedError,
    ViewError,
)
from hmmemu.files import SharedFile
from hmmemu.kernel import Kernel, RawKernel, RawModule
from hmmemu.ksm import MergeResult, Owner
from hmmemu.link import Link, links
from hmmemu.page_states import cpu
from hmmemu.policy import Policy
from hmmemu.protect import Protection, Protector, Snapshot, WrittenPages
from hmmemu.routes import Fallback, Route
from hmmemu.space import AddressSpace, current_space
from hmmemu.stream import Event, Stream, current_stream, get_elapsed_time
from hmmemu.trace import Stats

if TYPE_CHECKING:
    from hmmemu.atomics import AtomicSite
    from hmmemu.atomics_report import AtomicsReport, AtomicUse

# Names that few programs say, of modules that take an eighth of the time that all of them take.
_LATE = {
    "AtomicSite": "hmmemu.atomics",
    "AtomicUse": "hmmemu.atomic_uses",
    "AtomicsReport": "hmmemu.atomics_report",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'hmmemu._public' has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


__all__ = [
    "AddressSpace",
    "ArgumentError",
    "AtomicCapability",
    "AtomicOperation",
    "AtomicSite",
    "AtomicUse",
    "AtomicsReport",
    "CompileError",
    "Device",
    "DeviceError",
    "DeviceView",
    "Error",
    "Event",
    "Fallback",
    "FallbackWarning",
    "FileConflictWarning",
    "In",
    "InOut",
    "Kernel",
    "KernelAssertion",
    "KernelError",
    "KernelFault",
    "KernelTimeout",
    "Link",
    "MergeResult",
    "NoCompilerError",
    "Out",
    "OutOfMemoryError",
    "Owner",
    "Policy",
    "Protection",
    "Protector",
    "RangeError",
    "RawKernel",
    "RawModule",
    "Route",
    "SharedFile",
    "Snapshot",
    "SpaceClosedError",
    "Stats",
    "Stream",
    "TruncatedError",
    "UnsupportedError",
    "ViewError",
    "WrittenPages",
    "array",
    "asarray",
    "atomic_add",
    "atomic_and",
    "atomic_cas",
    "atomic_dec",
    "atomic_exch",
    "atomic_inc",
    "atomic_load",
    "atomic_max",
    "atomic_min",
    "atomic_or",
    "atomic_store",
    "atomic_sub",
    "atomic_xor",
    "cpu",
    "current_space",
    "current_stream",
    "device_view",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "get_elapsed_time",
    "links",
    "ones",
    "ones_like",
    "register",
    "stats",
    "synchronize",
    "unregister",
    "zeros",
    "zeros_like",
]
