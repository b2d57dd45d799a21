"""What an atomic operation of a kernel did, and what it would do over other links: the rows of an `AtomicsReport`.

Values that never change, so no lock guards them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hmmemu.link import AtomicOperation, Fallback, Link, Route, find_link
from hmmemu.trace import PAGE

# hmm_atomic_done in compiler/include/hmmemu/abi.h: how an operation was done.
WAYS = ("local", "there", "moved", "native", "cas-loop", "lost", "fault", "exclusive")
_MOVING = (Route.DEVICE, Route.MIGRATE, Route.EXCLUSIVE)


@dataclass(frozen=True)
class Estimate:
    """What operations would cost on a link.

    Attributes:
        moves: how often a page would go to the device for them, or (exclusive) be taken from the CPU; None: not known.
        seconds: by the formula of docs/atomics.md, one operation after the other; None: not known, or they do not work.
    """

    moves: int | None
    seconds: float | None


@dataclass(frozen=True)
class AtomicUse:
    """An atomic operation in the source, on one array, as it ran.

    Attributes:
        kernel, function, call, scope, file, line: as in `AtomicSite`.
        operation, bits, lanes, signed: what ran, in CUDA's vocabulary.
        type: of what it works on.
        array: the kernel's pointer argument, or the variable, or the array that lies there.
        foreseen: whether the search in the source, which `Kernel.atomics` does, says that it may go there.
        count: how often it ran. A vector counts once, and so does a loop of compare-and-swap in libcu++.
        ways: how often in which way: "local" (in memory of one block), "there" (in the device's memory, where the page
            was), "moved" (there, when its page fault had brought the page), "native" (in place, over the link),
            "cas-loop", "lost" (fallback silent), "fault", "exclusive" (in place, when its page fault had taken the page
            from the CPU).
        link, fallback: of the space.
        route: the way that `Link.route` tells for this link.
    """

    kernel: str
    function: str
    call: str
    operation: AtomicOperation
    type: str
    bits: int
    lanes: int
    signed: bool
    scope: str
    file: str
    line: int
    array: str
    foreseen: bool
    count: int
    ways: dict[str, int] = field(hash=False)
    link: Link = field(repr=False)
    fallback: Fallback
    on_device: bool

    @property
    def route(self) -> Route:
        """The way on this link, for a page in the CPU's memory."""
        return self.route_on(self.link)

    def route_on(self, link: Link | str) -> Route:
        """The same for any link; ArgumentError if there is no such link."""
        if self.on_device:
            return Route.LOCAL
        if self.scope != "system":
            return Route.DEVICE
        way = find_link(link).route
        return way(self.operation, self.bits, signed=self.signed, lanes=self.lanes, fallback=self.fallback)

    def estimate(self, link: Link | str) -> Estimate:
        """What these operations would cost on a link, if all went there; ArgumentError if there is no such link."""
        link, route = find_link(link), self.route_on(link)
        if route in (Route.LOCAL, Route.NATIVE):
            return Estimate(0, self.count * link.latency if route is Route.NATIVE else 0.0)
        if route is Route.CAS_LOOP:
            return Estimate(0, 2 * self.count * link.latency)  # a read, then a swap that succeeds
        if route not in _MOVING or route is not self.route:
            return Estimate(None, None)
        if route is Route.EXCLUSIVE:
            moves = self.ways.get("exclusive", 0)
            return Estimate(moves, moves * link.fault_cost + self.count * link.latency)
        moves = self.ways.get("moved", 0)
        return Estimate(moves, moves * (link.fault_cost + PAGE / link.bandwidth))

    def to_dict(self, links: tuple[Link, ...] = ()) -> dict[str, Any]:
        """Plain data, for JSON, with what it would do on other links."""
        plain = {
            key: value for key, value in vars(self).items() if key not in ("link", "operation", "on_device")
        }
        others = {}
        for link in links:
            route, cost = self.route_on(link), self.estimate(link)
            others[link.name] = {"route": route.value, "verdict": route.verdict, **vars(cost)}
        own = {"operation": self.operation.cuda_name, "link": self.link.name, "route": self.route.value}
        return {**plain, **own, "links": others}


__all__ = ["WAYS", "AtomicUse", "Estimate"]
