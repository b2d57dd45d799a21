"""Launches of a kernel like others before: what is decided once for them.

`Device.launch` looks at everything anew, and says what is wrong. When it has launched a kernel, a
`_native.RepeatedLaunch` is made from what it found, and that launches the kernel the next time, in one call: if the
arguments are of the types that nearly all are, and if nothing goes on in the space that launches have to do with.
Otherwise nothing is launched there, and `Device.launch` does it.

No state, so no lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hmmemu._native import RepeatedLaunch
from hmmemu.arguments import In, InOut, Parameter, fits
from hmmemu.reach import Reach

if TYPE_CHECKING:
    from hmmemu.device import Device
    from hmmemu.modules import LoadedKernel
    from hmmemu.space import AddressSpace

_KINDS = {"integer": "iu", "floating": "f", "bool": "b"}  # of NumPy's scalars, for a parameter's kind


def is_plain(space: AddressSpace) -> bool:
    """Whether launches have to do with nothing but their arguments: no views, no counts, no files, no checks."""
    policy = space.policy
    return not (
        space.views.any
        or space.counting is not None
        or space.check_reach
        or space.memory.registry.watches_files
        or policy.launch != "fault"
        or policy.reaches != "named"
    )


def make_repeated(
    device: Device,
    kernel: LoadedKernel,
    room: int | None = None,
    shares: Sequence[bool] = (),
) -> RepeatedLaunch:
    """The later launches of a kernel that was launched.

    Args:
        device: on which.
        kernel: as it is loaded there.
        room: bytes that the memory of a launch may take, blocks of 2 MiB at its ends included, if the device is told
            what a launch reaches; else None.
        shares: for each parameter whether the CPU uses an array's memory, too, while the kernel runs; () for none.
    """
    space, supervisor = device.space, device.supervisor
    arena = space.memory.arena.memory
    variables: Sequence[Reach] = () if room is None else kernel.variables
    parameters = kernel.parameters
    at_a_distance = device.address_distance != 0
    return RepeatedLaunch(
        space.session,
        device.process,
        device.processor,
        supervisor.lock,
        supervisor.pending,
        (arena.begin, arena.end),
        space.memory.registry.table,
        [
            _description(p, with_cpu, at_a_distance)
            for p, with_cpu in zip(parameters, shares or [False] * len(parameters), strict=True)
        ],
        (np.ndarray, In, InOut),
        handle=kernel.handle,
        waits=kernel.waits,
        param_bytes=kernel.parameter_bytes,
        most_threads=kernel.max_threads,
        most_shared=device.shared_bytes - kernel.static_shared,
        room=room,
        variables=list(variables),
        notices=space.tracker == "async",
    )


def _description(parameter: Parameter, shares: bool, at_a_distance: bool) -> dict[str, Any]:
    """A parameter as native/bind/arguments.h takes it."""
    same, others = _scalar_types(parameter.kind, parameter.size, parameter.is_signed)
    return {
        "kind": parameter.kind,
        "offset": parameter.offset,
        "size": parameter.size,
        "is_signed": parameter.is_signed,
        "writes": not parameter.pointee_const,
        "shares": shares,
        "refuses_arrays": at_a_distance and parameter.type.count("*") > 1,  # see hmmemu/address_distance.py
        "fits": partial(fits, parameter.type, parameter.pointee_size),
        "same": same,
        "others": others,
    }


@lru_cache(maxsize=64)
def _scalar_types(kind: str, size: int, is_signed: bool) -> tuple[tuple[type, ...], tuple[type, ...]]:
    """NumPy's scalars whose bytes a parameter takes as they are; and unsigned ones for a signed parameter."""
    types = [t for t in set(np.sctypeDict.values()) if np.dtype(t).kind in _KINDS.get(kind, "")]
    right = [t for t in types if np.dtype(t).itemsize == size]
    unsigned = [t for t in right if is_signed and np.dtype(t).kind == "u"]
    return tuple(t for t in right if t not in unsigned), tuple(unsigned)
