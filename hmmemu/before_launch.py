"""What becomes of the memory that a launch names, before the kernel may begin. A device view is such a launch, too.

No state, so no lock: the registry and the session guard themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from hmmemu.arguments import Pointer
from hmmemu.memory import Memory
from hmmemu.policy import Policy
from hmmemu.ranges import extent
from hmmemu.trace import CAUSES


def make_ready(memory: Memory, policy: Policy, pointers: Sequence[Pointer], processor: int) -> None:
    """Registers, discards and brings what a launch on a processor says.

    What is only read comes last, when devices have been given what the CPU wrote without being caught: copies that are
    updated in place need not be made again.
    """
    for pointer in pointers:
        if pointer.address not in memory.arena:
            memory.register(pointer.array)
        if pointer.discards and pointer.array.flags.forc:
            memory.session.discard(*extent(pointer.array).inner_pages)
        if pointer.writes:
            _bring(memory, policy, pointer, processor)
    memory.session.notice_all_writes(True)
    memory.registry.notice_writers()
    for pointer in pointers:
        if not pointer.writes:
            _bring(memory, policy, pointer, processor)


def _bring(memory: Memory, policy: Policy, pointer: Pointer, processor: int) -> None:
    if policy.launch == "prefetch" and pointer.array.size:
        memory.session.access(*extent(pointer.array).pages, processor, pointer.writes, CAUSES.index("launch"))
