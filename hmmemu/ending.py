"""How an address space ends: it is closed, or nobody has it any more.

What has to be done is known here without the space, which cannot be asked when it is gone: its parts end in one order,
and Python's collector keeps none. First the kernels, then the protectors, then the devices, whose pages come home, and
then the memory.

No lock of its own: the memory, each device and the native session guard themselves. Where a space is dropped, `drop`
runs in whatever thread Python collects garbage in, which may hold locks of other spaces, and none of this one but what
its protectors' thread holds.
"""

from __future__ import annotations

from contextlib import suppress

from hmmemu.errors import SpaceClosedError
from hmmemu.memory import Memory
from hmmemu.protect import DirtyLogs, Protectors
from hmmemu.supervisor import Supervisor

_DROPPED_SECONDS = 10.0  # for kernels still running when their space is dropped; then they are stopped


class Ending:
    """Ends what belongs to one address space.

    Attributes:
        devices: those that the space has so far.
    """

    def __init__(self, memory: Memory, protectors: Protectors, dirty_logs: DirtyLogs) -> None:
        self.devices: list[Supervisor] = []
        self._memory, self._protectors, self._dirty_logs = memory, protectors, dirty_logs

    def close(self, timeout: float | None) -> None:
        """See `AddressSpace.close`; `timeout` in seconds, None: without limit."""
        failure: BaseException | None = None
        for device in self.devices:
            try:
                device.synchronize(timeout)
            except SpaceClosedError:  # by another thread
                pass
            except BaseException as error:
                failure = error
        try:
            self._protectors.close()
        except BaseException as error:
            failure = error
        self._dirty_logs.close()
        with suppress(SpaceClosedError):  # another thread was faster
            for device in self.devices:
                self._memory.session.detach(device.processor)
                device.close()
            self._memory.close()
        if failure is not None:
            raise failure

    def drop(self) -> None:
        """Nobody has the space any more, and nobody has closed it."""
        if self._memory.is_inherited or not self._memory.session.open:
            return
        try:
            self.close(_DROPPED_SECONDS)
        finally:
            self._memory.close()  # while the devices are there
