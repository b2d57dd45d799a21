"""The vocabulary of CUDA's `cudaDeviceGetHostAtomicCapabilities`: atomic operations, and what a link can do of each.

Thirteen operations, and for each of them flags for the types and sizes that a link performs natively, in place, on
memory of the other side. Everything here is immutable, so no lock guards it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag

from hmmemu.errors import ArgumentError


class AtomicOperation(IntEnum):
    """cudaAtomicOperation, with its values."""

    INTEGER_ADD = 0
    INTEGER_MIN = 1
    INTEGER_MAX = 2
    INTEGER_INCREMENT = 3
    INTEGER_DECREMENT = 4
    AND = 5
    OR = 6
    XOR = 7
    EXCHANGE = 8
    CAS = 9
    FLOAT_ADD = 10
    FLOAT_MIN = 11
    FLOAT_MAX = 12

    @property
    def cuda_name(self) -> str:
        """As in cudaAtomicOperation..., for example "IntegerAdd"."""
        return _in_cuda(self.name)


class AtomicCapability(IntFlag):
    """cudaAtomicOperationCapability, with its values; and SCALAR_16, which that enumeration lacks."""

    SIGNED = 1
    UNSIGNED = 2
    REDUCTION = 4  # also in the form that does not return the old value
    SCALAR_32 = 8
    SCALAR_64 = 16
    SCALAR_128 = 32
    VECTOR_32X4 = 64
    SCALAR_16 = 1 << 16  # CUDA has 16-bit atomics, and no flag that says where they work

    @property
    def cuda_names(self) -> list[str]:
        """As in cudaAtomicCapability..., for example ["Signed", "Scalar32"]."""
        return [_in_cuda(flag.name or "") for flag in self]


Capabilities = tuple[AtomicCapability, ...]  # one for each operation, in the order of their values
SCALARS = {
    16: AtomicCapability.SCALAR_16,
    32: AtomicCapability.SCALAR_32,
    64: AtomicCapability.SCALAR_64,
    128: AtomicCapability.SCALAR_128,
}
SIZES = AtomicCapability.VECTOR_32X4 | SCALARS[16] | SCALARS[32] | SCALARS[64] | SCALARS[128]
# Where a type's sign changes what the operation does. (An addition does not care, but CUDA's flags name it.)
SIGN_MATTERS = {AtomicOperation.INTEGER_ADD, AtomicOperation.INTEGER_MIN, AtomicOperation.INTEGER_MAX}


def in_order(table: Mapping[AtomicOperation, AtomicCapability]) -> Capabilities:
    """Capabilities by operation as a tuple; see `Link.capabilities`."""
    for operation in table:
        if not isinstance(operation, AtomicOperation):
            names = ", ".join(o.name for o in AtomicOperation)
            raise ArgumentError(f"{operation!r} is not an AtomicOperation: {names}")
    return tuple(table.get(operation, AtomicCapability(0)) for operation in AtomicOperation)


def check_flags(what: str, flags: object) -> None:
    """Raises ArgumentError unless the flags can be meant; `what` has them, for the message."""
    if not isinstance(flags, AtomicCapability):
        raise ArgumentError(f"{what} is an AtomicCapability, not {flags!r}")
    if flags and not flags & SIZES:
        sizes = ", ".join(SIZES.cuda_names)
        raise ArgumentError(f"{what} has flags {flags.cuda_names} but no size; add one of {sizes}")


def _in_cuda(name: str) -> str:
    words = name.split("_")
    kept = {"CAS", "XOR"}  # written so in CUDA: cudaAtomicOperationCAS, cudaAtomicOperationXOR
    return "".join(word if word in kept else word.capitalize() for word in words).replace("X4", "x4")
