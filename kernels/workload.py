"""What every workload has in common: how one is described, run, timed and checked.

A workload is a CUDA C++ file and a Python class of the same name. Running one is always the same four steps:
`prepare` makes the input from a seed, `reference` computes the answer with NumPy alone, `compute` launches
the kernels, and the two answers are compared.

Invariants:
* `reference` runs before `compute`, so that a coherence bug which damages an input cannot also damage the
  answer it is compared with.
* Every workload is built so that its answer does not depend on the order of its arithmetic (integers, or
  floating-point values whose every partial sum is exact). Results are compared bit for bit: no tolerance.
* Compilation happens before the clock starts; `kernel_seconds` is the time of the launches alone.

Nothing here is shared between threads, so no lock guards it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm

Arrays = dict[str, NDArray[Any]]
Dim = int | tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of one run of a workload.

    `max_error` is the largest absolute difference from the reference (infinite where a result is not a number
    and should be, or has another shape); `bytes` is the size of all arrays that were handed to kernels, each
    counted once; `mismatch` says where the first difference is, and is empty when `verified`.
    """

    name: str
    size: str
    parameters: dict[str, float]
    verified: bool
    max_error: float
    kernel_seconds: float
    bytes: int
    launches: int
    mismatch: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, in plain values."""
        return asdict(self)


class Launcher:
    """Launches the kernels of one module and keeps count: launches, seconds, and the arrays that were used.

    With several devices, successive launches take turns among them, so results have to travel from one to the
    next.
    """

    def __init__(
        self, space: hmm.AddressSpace, module: hmm.RawModule, names: tuple[str, ...], fraction: float = 0.5
    ) -> None:
        """Compiles `names` now, so that no later launch pays for it. `fraction`: the CPU's part of shared work."""
        self.space = space
        self.fraction = fraction
        self.module = module
        self.launches = 0
        self.seconds = 0.0
        self._stream: hmm.Stream | None = None  # of the launches that do not wait
        self._kernels = {name: module.get_function(name) for name in names}
        for device in space.devices:
            with device:
                for kernel in self._kernels.values():
                    kernel.compile()
        self._arrays: dict[int, int] = {}

    def __call__(
        self, name: str, grid: Dim, block: Dim, *args: Any, shared_mem: int = 0, reaches: Sequence[Any] = ()
    ) -> None:
        """Launches the kernel `name` on the device whose turn it is and, outside of `together`, waits for its end.

        `grid` and `block` are in blocks and threads, `shared_mem` in bytes; `reaches` names arrays that the kernel
        reaches by pointers inside others.
        """
        if self._stream is None:
            with self.together(self.space.timeout):
                return self(name, grid, block, *args, shared_mem=shared_mem, reaches=reaches)
        device = self.space.devices[self.launches % len(self.space.devices)]
        kernel = self._kernels[name]
        kernel(
            _dim(grid),
            _dim(block),
            args,
            shared_mem=shared_mem,
            device=device,
            stream=self._stream,
            reaches=reaches,
        )
        self.launches += 1
        for arg in (*args, *reaches):
            array = getattr(arg, "array", arg)  # what hmm.Out wraps
            if isinstance(array, np.ndarray):
                address = array.ctypes.data
                self._arrays[address] = max(array.nbytes, self._arrays.get(address, 0))

    @contextmanager
    def together(self, limit: float | None = 60.0) -> Iterator[None]:
        """Launches in the body do not wait: they run beside the CPU, and have ended when the `with` has.

        Args:
            limit: seconds that they may go on behind the end of the body; None for no limit.

        Raises:
            hmm.KernelTimeout: they did not end in time, and were stopped.
            hmm.DeviceError: a kernel failed. This comes before an error of the body, which may have waited for it;
                where the body failed, kernels that wait for the CPU get another second.
        """
        self._stream, start = hmm.Stream(), time.perf_counter()
        try:
            yield
        except BaseException as error:
            failure = self._wait(1.0)
            if failure is not None and not isinstance(failure, hmm.KernelTimeout):
                raise failure from error
            raise
        else:
            failure = self._wait(limit)
            if failure is not None:
                raise failure
        finally:
            self._stream = None
            self.seconds += time.perf_counter() - start

    def _wait(self, limit: float | None) -> hmm.DeviceError | None:
        """Waits for every device, up to `limit` seconds each; the first failure."""
        first = None
        for device in self.space.devices:
            try:
                device.synchronize(limit)
            except hmm.DeviceError as error:
                first = first or error
        return first

    def variables(self, name: str) -> list[NDArray[np.uint8]]:
        """The bytes of the module's `__device__` or `__constant__` variable `name`, one array a device."""
        found = []
        for device in self.space.devices:
            with device:
                found.append(self.module.get_global(name))
        return found

    def slices(self, count: int) -> Iterator[slice]:
        """Cuts `count` elements into one slice a device."""
        devices = len(self.space.devices)
        bounds = [count * i // devices for i in range(devices + 1)]
        for first, end in pairwise(bounds):
            if end > first:
                yield slice(first, end)

    @property
    def bytes(self) -> int:
        """Bytes of all arrays handed to kernels, each counted once."""
        return sum(self._arrays.values())


class Workload(ABC):
    """One program: CUDA C++ kernels, their data, and a NumPy reference.

    Class attributes: `name`; `pattern`, one line on how its kernels go through memory; `sizes`, parameters
    for each of "tiny", "small", "medium" and "large"; `kernels`, the names it launches (name expressions for
    templates); `reads_image` where it works on an image that the user may give; `shares` where CPU threads and
    devices share the work, the CPU threads a fraction of it.
    """

    name: ClassVar[str]
    pattern: ClassVar[str]
    sizes: ClassVar[Mapping[str, Mapping[str, int]]]
    kernels: ClassVar[tuple[str, ...]]
    reads_image: ClassVar[bool] = False
    shares: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Any:
        """Makes the input for the parameters `size`; the same `rng` state gives the same input."""

    @abstractmethod
    def reference(self, data: Any) -> Arrays:
        """The right answer, by NumPy alone, as named arrays. Leaves `data` as it is."""

    @abstractmethod
    def compute(self, launch: Launcher, data: Any) -> Arrays:
        """The same answer by the kernels."""

    @property
    def path(self) -> Path:
        """The CUDA C++ file."""
        return Path(__file__).with_name(f"{self.name}.cu")

    @property
    def source(self) -> str:
        """The CUDA C++ source."""
        return self.path.read_text(encoding="utf-8")

    def module(self) -> hmm.RawModule:
        """The workload's kernels as a new module."""
        names = [name for name in self.kernels if "<" in name]
        return hmm.RawModule(code=self.source, options=("--std=c++17",), name_expressions=names or None)

    def parameters(self, size: str) -> Mapping[str, int]:
        """The parameters of a named size. Raises `hmm.ArgumentError` for a size that does not exist."""
        if size not in self.sizes:
            raise hmm.ArgumentError(
                f"{self.name} has no size {size!r}; choose one of {', '.join(self.sizes)}"
            )
        return self.sizes[size]

    def run(
        self,
        space: hmm.AddressSpace,
        size: str = "small",
        *,
        seed: int = 0,
        image: NDArray[np.uint16] | None = None,
        fraction: float | None = None,
    ) -> Outcome:
        """Runs the whole workload in `space` and checks its answer.

        `image` (two-dimensional, uint16) takes the place of the synthetic one where `reads_image` is set, and
        is refused with `hmm.ArgumentError` elsewhere. `fraction`, 0 to 1 (0.5 unless given), is the CPU threads'
        part of the work where `shares` is set, and refused elsewhere.
        """
        parameters = self.parameters(size)
        shared = self._shared(fraction)
        rng = np.random.default_rng(seed)
        if image is None:
            data = self.prepare(space, parameters, rng)
        else:
            data = self.prepare_image(image)
            size, parameters = "input", {"height": image.shape[0], "width": image.shape[1]}
        expected = self.reference(data)
        launch = Launcher(space, self.module(), self.kernels, **shared)
        results = self.compute(launch, data)
        max_error, mismatch = compare(results, expected)
        return Outcome(
            name=self.name,
            size=size,
            parameters={**parameters, **shared},
            verified=not mismatch,
            max_error=max_error,
            kernel_seconds=launch.seconds,
            bytes=launch.bytes,
            launches=launch.launches,
            mismatch=mismatch,
        )

    def _shared(self, fraction: float | None) -> dict[str, float]:
        """The parameter `fraction`, where there is one."""
        if not self.shares:
            if fraction is not None:
                raise hmm.ArgumentError(f"{self.name} shares no work with the CPU; leave `fraction` out")
            return {}
        chosen = 0.5 if fraction is None else fraction
        if not 0 <= chosen <= 1:
            raise hmm.ArgumentError(f"fraction={chosen!r}: the CPU's part of the work is 0 to 1")
        return {"fraction": chosen}

    def prepare_image(self, image: NDArray[np.uint16]) -> Any:
        """The data for an image that the user gave. Workloads with `reads_image` override this."""
        raise hmm.ArgumentError(f"{self.name} takes no image (its shape is {image.shape}); leave `image` out")


def blocks(count: int, block: int) -> int:
    """How many blocks of `block` threads give `count` threads or more; at least one."""
    return max(1, -(-count // block))


def compare(results: Arrays, expected: Arrays) -> tuple[float, str]:
    """Compares named arrays bit for bit: the largest difference, and words on the first one ("" if none)."""
    worst, words = 0.0, ""
    for name, right in expected.items():
        got = results[name]
        if got.shape != right.shape or got.dtype != right.dtype:
            text = f"{name} is {got.dtype}{list(got.shape)}, expected {right.dtype}{list(right.shape)}"
            worst, words = float("inf"), words or text
            continue
        wrong = np.ascontiguousarray(got).view(_bits(got)) != np.ascontiguousarray(right).view(_bits(right))
        if not wrong.any():
            continue
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = f"{name}[{', '.join(map(str, index))}]"
        count = f"{np.count_nonzero(wrong)} of {wrong.size} differ"
        words = words or f"{where} is {got[index]}, expected {right[index]} ({count})"
        worst = max(worst, _largest_difference(got[wrong], right[wrong]))
    return worst, words


def _bits(array: NDArray[Any]) -> str:
    """The unsigned integer type of the same width, to compare floating-point values by their bits."""
    return f"u{array.dtype.itemsize}"


def _largest_difference(got: NDArray[Any], right: NDArray[Any]) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(got.astype(np.float64) - right.astype(np.float64))
    return float("inf") if np.isnan(difference).any() else float(difference.max())


def _dim(value: Dim) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)
