"""Policies: how eagerly pages move. One frozen value, given to `AddressSpace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hmmemu.errors import ArgumentError


@dataclass(frozen=True)
class Policy:
    """How pages move.

    Attributes:
        grow: a fault brings more than its page: 64 KiB, then the largest part of the 2 MiB block, around
            the fault, of which more than `threshold` percent would be resident (the rule and the defaults of
            NVIDIA's open kernel modules, uvm_perf_prefetch.c). A CPU that writes pages which it shares with a device
            begins with the page alone, unless it has written the one before, and counts pages that it may write. Where
            a CPU used much of a block between one time that a device asked for it and the next, it begins with more.
            False: one page a fault.
        threshold: percent, 1 to 100.
        read_duplication: a page that is only read may have a copy in every memory. False: a read migrates.
        thrashing: a page that CPU and device take from each other three times, each within `thrashing_lapse` of the
            last, is held for whoever has got it for that long, so that each gets a batch of work done; one that they
            fight over with plain loads and stores is soon mapped where both reach it, in the CPU's memory (the rule and
            the defaults of NVIDIA's open kernel modules, uvm_perf_thrashing.c). False: every fault is answered at once.
        thrashing_lapse: seconds, 1e-6 to 1. Half a millisecond is much where each side has a CPU to itself; where there
            are fewer CPUs than threads, a page changes hands as often as the system lets them take turns.
        launch: "fault": a kernel's pages move when it touches them; "prefetch": the arrays among its arguments
            are made resident before it starts, as they must be on a GPU that cannot fault.
        reaches: what kernels on a GPU may touch, "named": the arrays among their arguments and those that a launch
            names, `reaches=`; "registered": all memory of the space, which has to fit on the GPU, is brought there at
            each launch, and counts as written.

    Raises:
        ArgumentError: a value out of its range.
    """

    grow: bool = True
    threshold: int = 51
    read_duplication: bool = True
    thrashing: bool = True
    thrashing_lapse: float = 0.0005
    launch: Literal["fault", "prefetch"] = "fault"
    reaches: Literal["named", "registered"] = "named"

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= 100:
            raise ArgumentError(f"Policy.threshold is a percentage from 1 to 100, not {self.threshold!r}")
        if not 1e-6 <= self.thrashing_lapse <= 1:
            raise ArgumentError(f"Policy.thrashing_lapse is 1e-6 to 1 seconds, not {self.thrashing_lapse!r}")
        if self.launch not in ("fault", "prefetch"):
            raise ArgumentError(f"Policy.launch is 'fault' or 'prefetch', not {self.launch!r}")
        if self.reaches not in ("named", "registered"):
            raise ArgumentError(f"Policy.reaches is 'named' or 'registered', not {self.reaches!r}")
