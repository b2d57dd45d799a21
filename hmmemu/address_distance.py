"""Where a device has the memory of a space: at the CPU's own addresses, or all of it at one distance from them.

A GPU gets the addresses that CUDA gives. Where those are not the CPU's, pointers among a kernel's parameters are
translated as it is launched (native/device/cuda/launch.cpp), and pointers in data cannot be: what is known to need
them is refused here. Distances lead from the highest address on to the lowest: programs have memory at both ends (a
heap near 0, mappings below 2^47), which would leave room for the smallest distances only. No state; the caller holds
the device's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from hmmemu import _native
from hmmemu._native import DeviceProcess
from hmmemu.arguments import Parameter, Pointer
from hmmemu.errors import RangeError, UnsupportedError
from hmmemu.ranges import PageRange

_MOST_DISTANCES = 12  # each costs a start of the process
_ADDRESSES = 1 << 47  # what a program has
_LOWEST = 1 << 21


def start_with(process: DeviceProcess, layout: int, distance: int, ranges: Sequence[PageRange]) -> bool:
    """Starts a device's process anew and maps all of the ranges, none of which it had.

    Tries every address layout at this distance, and then, on a GPU, distances at which the last range that could not
    be had has room, or else far ones. False: none will do; a process runs, with some of the ranges.
    """
    largest_first = sorted(ranges, key=lambda r: r[0] - r[1])  # it has the least choice
    far = iter(_far_distances(ranges))
    tried = {0, distance}
    offered = 0
    for attempt in range(_native.LAYOUTS + _MOST_DISTANCES):
        if attempt >= _native.LAYOUTS:
            if not offered:
                return False
            distance = offered if offered not in tried and _has_room(offered, ranges) else next(far, 0)
            if not distance:
                return False
            tried.add(distance)
        process.restart((layout + attempt) % _native.LAYOUTS, distance)
        if _map_all(process, largest_first):
            return True
        offered = process.offered_distance or offered
    return False


def _has_room(distance: int, ranges: Sequence[PageRange]) -> bool:
    """Whether each range has such addresses, all in a row."""
    places = ((begin + distance) % _ADDRESSES for begin, _ in ranges)
    return all(_LOWEST <= at <= _ADDRESSES - (r[1] - r[0]) for at, r in zip(places, ranges, strict=True))


def _far_distances(ranges: Sequence[PageRange]) -> list[int]:
    """Distances from 64 GiB to 48 TiB with room for all ranges: unlike ones first."""
    sizes = [gib << 30 for gib in (16 << 10, 48 << 10, 4 << 10, 1 << 10, 256, 64, 32 << 10)]
    return [one for size in sizes for one in (size, -size) if _has_room(one, ranges)]


def _map_all(process: DeviceProcess, ranges: Sequence[PageRange]) -> bool:
    try:
        for begin, end in ranges:
            process.map(begin, end - begin)
    except RangeError:
        return False
    return True


def in_words(distance: int) -> str:
    """For a device's repr: "", or the distance in GiB and bytes."""
    if not distance:
        return ""
    return f", addresses {distance:+#x} bytes from the CPU's: pointers in data do not work there"


def refuse_pointers_in_data(
    device: str,
    distance: int,
    kernel: str,
    parameters: Sequence[Parameter],
    pointers: Sequence[Pointer],
    block: bytes,
    memory: Sequence[PageRange],
) -> None:
    """Raises UnsupportedError if a launch on a device at a distance needs pointers in data, as far as it shows.

    That is memory which no argument leads to (`reaches=`, `Policy(reaches="registered")`), arrays for parameters that
    are pointers to pointers, and structures in the parameter block that hold addresses of the space's memory.
    """
    if not distance:
        return
    needs = next((words for pointer in pointers if (words := _needs(parameters, pointer))), "")
    needs = needs or next((_called(p) for p in parameters if _holds_address(p, block, memory)), "")
    if needs:
        raise UnsupportedError(
            f"kernel {kernel} follows pointers in data, as {needs} says, and on {device} they point to nothing: CUDA "
            f"does not give the GPU the CPU's addresses here but others, {distance:+#x} bytes from them "
            "(device.address_distance), and only pointers among the arguments are translated. Pass the arrays as "
            "arguments, with indices in place of pointers, or use device='emulated'"
        )


def _needs(parameters: Sequence[Parameter], pointer: Pointer) -> str:
    if pointer.parameter < 0:
        return "reaches= (of the launch or the Policy)"
    parameter = parameters[pointer.parameter]
    return _called(parameter) if parameter.type.count("*") > 1 else ""


def _called(parameter: Parameter) -> str:
    return f"its parameter {parameter.type} {parameter.name}"


def _holds_address(parameter: Parameter, block: bytes, memory: Sequence[PageRange]) -> bool:
    """Whether a word of a structure has the value of an address. What is a number by its type is taken for one."""
    if parameter.kind != "other":
        return False
    first, end = -(-parameter.offset // 8) * 8, parameter.offset + parameter.size
    words = (int.from_bytes(block[at : at + 8], "little") for at in range(first, end - 7, 8))
    return any(begin <= word < last for word in words for begin, last in memory)
