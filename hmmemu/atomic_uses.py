"""What an atomic operation of a kernel did, and what it would do over other links: the rows of an `AtomicsReport`.

Values that never change, so no lock guards them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hmmemu.arena import PAGE
from hmmemu.atomics import AtomicInSource
from hmmemu.link import Link
from hmmemu.link_names import find_link
from hmmemu.routes import Route

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
class AtomicUse(AtomicInSource):
    """An atomic operation in the source, on one array, as it ran.

    Attributes, beside those of `AtomicInSource` (`bits`, `lanes` and `signed` are what ran):
        array: the kernel's pointer argument, or the variable, or the array that lies there.
        foreseen: whether the search in the source, which `Kernel.atomics` does, says that it may go there.
        count: how often it ran. A vector counts once, and so does a loop of compare-and-swap in libcu++.
        ways: how often in which way: "local" (in memory of one block), "there" (in the device's memory, where the page
            was), "moved" (there, when its page fault had brought the page), "native" (in place, over the link),
            "cas-loop", "lost" (fallback silent), "fault", "exclusive" (in place, when its page fault had taken the page
            from the CPU).
        link: of the space.
    """

    array: str
    foreseen: bool
    count: int
    ways: dict[str, int] = field(hash=False)
    link: Link = field(repr=False)

    @property
    def route(self) -> Route:
        """The way on this link, for a page in the CPU's memory."""
        return self.route_on(self.link)

    def route_on(self, link: Link | str) -> Route:
        """The same for any link; ArgumentError if there is no such link."""
        route = super().route_on(link)
        assert route is not None, "what ran has a type"
        return route

    def estimate(self, link: Link | str) -> Estimate:
        """What these operations would cost on a link, if all went there; ArgumentError if there is no such link."""
        link, route = find_link(link), self.route_on(link)
        if route in (Route.LOCAL, Route.NATIVE):
            return Estimate(0, self.count * link.latency if route is Route.NATIVE else 0.0)
        if route is Route.CAS_LOOP:
            return Estimate(0, 2 * self.count * link.latency)  # a read, then a swap that succeeds
        if route not in _MOVING or route is not self.route:
            return Estimate(None, None)
        taken, moved = self.ways.get("exclusive", 0), self.ways.get("moved", 0)
        seconds = (taken + moved) * link.fault_cost + moved * PAGE / link.bandwidth
        if route is Route.EXCLUSIVE and not moved:
            seconds += self.count * link.latency
        return Estimate(taken + moved, seconds)

    def to_dict(self, links: tuple[Link, ...] = ()) -> dict[str, Any]:
        """Plain data, for JSON, with what it would do on other links."""
        own = {key: getattr(self, key) for key in ("array", "foreseen", "count", "ways")}
        others = {}
        for link in links:
            route, cost = self.route_on(link), self.estimate(link)
            others[link.name] = {"route": route.value, "verdict": route.verdict, **vars(cost)}
        here = {"link": self.link.name, "route": self.route.value}
        return {**super().to_dict(), **own, **here, "links": others}


__all__ = ["WAYS", "AtomicUse", "Estimate"]
