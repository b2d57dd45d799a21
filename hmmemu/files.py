"""SharedFile: a file whose mapped pages are part of an address space, and whose system calls go through it.

`write`, `pwrite` and `truncate` act like stores: the pages come to the CPU, protectors hear of it, devices lose
their copies, and then the file changes, all with the pages locked.

LOCK: `_lock` guards the position and the end of the file's life. Pages are guarded by the driver.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import weakref
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from hmmemu.arena import page_down
from hmmemu.arrays import Shape, dimensions_of, element_type
from hmmemu.errors import ArgumentError
from hmmemu.file_parts import show_again
from hmmemu.page_states import cpu
from hmmemu.ranges import Array
from hmmemu.space import AddressSpace, current_space

_FLAGS = {"r": os.O_RDONLY, "r+": os.O_RDWR, "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC}


class SharedFile:
    """A file with mapped, shared pages that CPU and devices read and write.

    Args:
        path: the file.
        mode: "r" read only, "r+" read and write, "w+" made anew.
        dtype: of `array`.
        shape: of `array`; None: all of the file behind `offset`, in one dimension. A file that is opened for writing
            and too short grows.
        offset: where `array` starts in the file, bytes.
        space: the address space; None: the current one.

    Attributes:
        array: the mapped content. It stays valid as plain memory after `close`.

    Raises:
        ArgumentError: a mode, dtype or shape that is none, or a file too short for the shape.
        UnsupportedError: pages of files cannot be watched here.
        OSError: as `open`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: str = "r+",
        dtype: DTypeLike = np.uint8,
        shape: Shape | None = None,
        offset: int = 0,
        space: AddressSpace | None = None,
    ) -> None:
        if mode not in _FLAGS:
            raise ArgumentError(f"mode={mode!r}: use 'r', 'r+' or 'w+'")
        if offset < 0:
            raise ArgumentError(f"offset={offset}: bytes from the beginning of the file, 0 or more")
        self.path = os.fspath(path)
        self.mode = mode
        self.space = space or current_space()
        self._lock = threading.RLock()
        self._position = 0
        kind, inner = element_type(dtype)
        dimensions = None if shape is None else dimensions_of(shape)
        self._fd = os.open(path, _FLAGS[mode] | os.O_CLOEXEC, 0o666)
        self._end = weakref.finalize(self, os.close, self._fd)  # of a file that is dropped, too
        self._end.atexit = False
        try:
            self.array = self._map(kind, inner, dimensions, offset)
        except BaseException:
            self._end()
            self._fd = -1
            raise

    def _map(
        self, dtype: np.dtype[Any], inner: tuple[int, ...], outer: tuple[int, ...] | None, offset: int
    ) -> Array:
        size = os.fstat(self._fd).st_size
        element = math.prod(inner) * dtype.itemsize
        dimensions = ((max(0, size - offset) // element,) if outer is None else outer) + inner
        needed = offset + math.prod(dimensions) * dtype.itemsize
        if needed == offset:
            raise ArgumentError(f"{self.path} has {size:,} bytes: nothing to map from offset {offset:,} on")
        if needed > size:
            if self.mode == "r":
                raise ArgumentError(
                    f"{self.path} has {size:,} bytes; this dtype, shape and offset need {needed:,}"
                )
            os.ftruncate(self._fd, needed)
        protection = mmap.PROT_READ | (0 if self.mode == "r" else mmap.PROT_WRITE)
        self._first = page_down(offset)
        self._memory = mmap.mmap(
            self._fd, needed - self._first, mmap.MAP_SHARED, protection, offset=self._first
        )
        self._pages = np.frombuffer(self._memory, np.uint8)
        self.space.register(self._pages)
        return self._pages[offset - self._first :].view(dtype).reshape(dimensions)

    def __enter__(self) -> SharedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.size:,} bytes"
        return f"<hmmemu.SharedFile {self.path!r}, mode {self.mode!r}, {state}>"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    @property
    def size(self) -> int:
        """Bytes that the file has now."""
        return os.fstat(self.fileno()).st_size

    def fileno(self) -> int:
        """The descriptor. What is written through it directly is noticed at the next launch only.

        Raises:
            ArgumentError: the file is closed.
        """
        if self._fd < 0:
            raise ArgumentError(f"the SharedFile of {self.path} is closed")
        return self._fd

    # ------------------------------------------------------------------------------------- system calls

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset` on, what devices wrote included."""
        fd = self.fileno()
        self._bring_home()
        return os.pread(fd, size, offset)

    def pwrite(self, data: Any, offset: int) -> int:
        """Writes bytes at `offset`; returns how many (all of them).

        Protectors of the pages hear of it, and devices lose their copies, before the file changes.

        Raises:
            ArgumentError: the file was opened for reading, or the data are not contiguous.
            OSError: as `os.pwrite`; a part may have been written.
        """
        fd = self._writable("pwrite")
        try:
            raw = np.frombuffer(data, np.uint8)
        except (TypeError, ValueError, BufferError) as error:
            raise ArgumentError(
                f"pwrite takes contiguous bytes, as of numpy.ascontiguousarray(x) or s.encode(): {error}"
            ) from None
        if offset < 0:
            raise ArgumentError(f"offset={offset}: bytes from the beginning of the file, 0 or more")
        if not raw.size:
            return 0
        session, (begin, end) = self._session(), self._range()
        before = self.size
        if session is None:
            return os.pwrite(fd, raw.data, offset)
        session.write_file(fd, begin, end, self._first, offset, raw.ctypes.data, raw.size)
        if self.size > before:
            self._show_again()
        return raw.size

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (-1: the rest) from the position on, which moves."""
        with self._lock:
            rest = max(0, self.size - self._position)
            data = self.pread(rest if size < 0 else size, self._position)
            self._position += len(data)
            return data

    def write(self, data: Any) -> int:
        """Writes bytes at the position, which moves; see `pwrite`."""
        with self._lock:
            written = self.pwrite(data, self._position)
            self._position += written
            return written

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position, as files do; returns it."""
        with self._lock:
            base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}.get(whence)
            if base is None:
                raise ArgumentError(f"whence={whence!r}: use os.SEEK_SET, os.SEEK_CUR or os.SEEK_END")
            if base + offset < 0:
                raise ArgumentError(f"a position of {base + offset} bytes")
            self._position = base + offset
            return self._position

    def tell(self) -> int:
        """The position, bytes."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Makes the file `size` bytes long (None: up to the position); returns that.

        The mapping stays. Pages behind the new end cannot be used until the file grows again: an access of a device
        is a KernelFault, one of the program a TruncatedError.
        """
        fd = self._writable("truncate")
        size = self._position if size is None else int(size)
        if size < 0:
            raise ArgumentError(f"truncate({size}): a file has 0 bytes or more")
        session = self._session()
        if session is None:
            os.ftruncate(fd, size)
        else:
            session.truncate_file(fd, *self._range(), self._first, size)
            self._show_again()
        return size

    def flush(self) -> None:
        """Brings home what devices wrote, and writes it to the disk (fsync)."""
        fd = self.fileno()
        self._bring_home()
        os.fsync(fd)

    def close(self) -> None:
        """Brings the pages home, ends the registration (see `AddressSpace.unregister`) and closes the file.

        May be called twice. A SharedFile that is dropped closes the file, too; its pages stay registered while `array`
        is in use.
        """
        with self._lock:
            if self._fd < 0:
                return
            if self._session() is not None and self._pages in self.space.memory.registry:
                self.space.unregister(self._pages)
            self._end()
            self._fd = -1

    # ---------------------------------------------------------------------------------------- its pages

    def _writable(self, what: str) -> int:
        if self.mode == "r":
            raise ArgumentError(f"{what} on {self.path}, which was opened with mode 'r': use 'r+'")
        return self.fileno()

    def _session(self) -> Any:
        """The space's session, None once it is closed: then the file is a plain file."""
        return self.space.session if self.space.session.open else None

    def _range(self) -> tuple[int, int]:
        begin = self._pages.ctypes.data
        return begin, page_down(begin + self._pages.size + mmap.PAGESIZE - 1)

    def _bring_home(self) -> None:
        if self._session() is not None:
            self.space.prefetch(self._pages, cpu, write=False)

    def _show_again(self) -> None:
        """The file may have grown: all its mappings show what they can of it."""
        parts = self.space.memory.registry.file_parts()
        mine = {(part.device, part.inode) for part in parts if part.begin == self._range()[0]}
        for part in parts:
            if (part.device, part.inode) in mine:
                show_again(self.space.session, part)
