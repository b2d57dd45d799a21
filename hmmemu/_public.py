"""The public names of hmmemu, nothing else; `hmmemu/__init__.py` gives them out when first asked for."""

from hmmemu._version import __version__
from hmmemu.arguments import In, InOut, Out
from hmmemu.creation import (
    array,
    asarray,
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
)
from hmmemu.files import SharedFile
from hmmemu.kernel import Kernel, RawKernel, RawModule
from hmmemu.ksm import MergeResult, Owner
from hmmemu.policy import Policy
from hmmemu.protect import Protection, Protector, Snapshot, WrittenPages
from hmmemu.space import AddressSpace, cpu, current_space
from hmmemu.stream import Event, Stream, current_stream, get_elapsed_time
from hmmemu.trace import Stats

__all__ = [
    "AddressSpace",
    "ArgumentError",
    "CompileError",
    "Device",
    "DeviceError",
    "Error",
    "Event",
    "FallbackWarning",
    "FileConflictWarning",
    "In",
    "InOut",
    "Kernel",
    "KernelAssertion",
    "KernelError",
    "KernelFault",
    "KernelTimeout",
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
    "SharedFile",
    "Snapshot",
    "SpaceClosedError",
    "Stats",
    "Stream",
    "TruncatedError",
    "UnsupportedError",
    "WrittenPages",
    "__version__",
    "array",
    "asarray",
    "cpu",
    "current_space",
    "current_stream",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "get_elapsed_time",
    "ones",
    "ones_like",
    "register",
    "stats",
    "synchronize",
    "unregister",
    "zeros",
    "zeros_like",
]
