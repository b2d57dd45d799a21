"""What becomes of the memory that a launch names, before the kernel may begin. A device view is such a launch, too.

No state, so no lock: the registry and the session guard themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from hmmemu.arguments import Pointer
from hmmemu.memory import Memory
from hmmemu.policy import Policy
from hmmemu.ranges import Range
from hmmemu.trace import CAUSES

LAUNCH = CAUSES.index("launch")  # the cause of what is brought


def make_ready(memory: Memory, policy: Policy, pointers: Sequence[Pointer], processor: int) -> None:
    """Registers, discards and brings what a launch on a processor says.

    Nothing is discarded while earlier launches are under way: they may read it still, and discarding spares work only.
    What is only read comes last, when devices have been given what the CPU wrote without being caught: copies that are
    updated in place need not be made again.
    """
    brings = policy.launch == "prefetch"
    arena = memory.arena.memory
    for pointer in pointers:
        if not arena.begin <= pointer.address < arena.end:
            memory.register(pointer.array)
        if pointer.discards and pointer.array.flags.forc and memory.idle:
            memory.session.discard(*Range(pointer.begin, pointer.end).inner_pages)
        if pointer.writes and brings:
            _bring(memory, pointer, processor)
    memory.session.notice_all_writes(True)
    memory.registry.notice_writers()
    for pointer in pointers if brings else ():
        if not pointer.writes:
            _bring(memory, pointer, processor)


def _bring(memory: Memory, pointer: Pointer, processor: int) -> None:
    if pointer.end:
        memory.session.access(*pointer.pages, processor, pointer.writes, LAUNCH)
