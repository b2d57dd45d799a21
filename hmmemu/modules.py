"""Compiled modules as a device process has them: kernels and variables by name.

LOCK: `Supervisor.lock`, of the device's process: a module is loaded in one process, and its successor has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hmmemu.arena import page_up
from hmmemu.arguments import Parameter
from hmmemu.errors import ArgumentError
from hmmemu.ranges import Array, PageRange, Range
from hmmemu.reach import Reach
from hmmemu.supervisor import Supervisor

if TYPE_CHECKING:
    from hmmemu.compiler import Compiled

T = TypeVar("T")
_KINDS = (
    "",
    "pointer",
    "integer",
    "floating",
    "bool",
    "other",
)  # hmm_param_kind of compiler/include/hmmemu/abi.h


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel in the device process; `handle` is what launches name."""

    name: str
    handle: int
    parameters: tuple[Parameter, ...]
    parameter_bytes: int
    static_shared: int
    max_threads: int
    mode: str
    waits: bool  # a block may wait for what others write
    variables: tuple[Reach, ...]  # the pages of its module's variables, and whether kernels may write there


class LoadedModule:
    """A module in the device process.

    Args:
        table: what `DeviceProcess.load` answered.
        view: bytes of shared memory as an array, from address and size.
    """

    def __init__(self, table: dict[str, Any], view: Callable[[int, int], Array]) -> None:
        self._view = view
        self._variables = {entry["name"]: entry for entry in table["globals"]}
        places = tuple(map(_place, table["globals"]))
        self._kernels = {entry["name"]: _kernel(entry, places) for entry in table["kernels"]}

    def kernel(self, name: str) -> LoadedKernel:
        """The kernel `name`; ArgumentError if there is none."""
        return _look_up("kernel", name, self._kernels)

    def variable(self, name: str) -> Array:
        """The bytes of the variable `name`; ArgumentError if there is none."""
        entry = _look_up("variable", name, self._variables)
        return self._view(entry["address"], entry["bytes"])

    def initialise(self) -> None:
        """Writes the initial values of variables that the process did not write itself."""
        for name, entry in self._variables.items():
            if initial := entry.get("initial"):
                self.variable(name)[:] = np.frombuffer(bytes.fromhex(initial), np.uint8)

    def variables(self) -> list[tuple[int, int, str]]:
        """(begin, end, name) of every variable."""
        entries = self._variables.items()
        return [(entry["address"], entry["address"] + entry["bytes"], name) for name, entry in entries]


class LoadedModules:
    """The modules that a device has loaded.

    Args:
        supervisor: of the device's process.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._generation = supervisor.generation
        self._modules: dict[str, LoadedModule] = {}
        self._variables: dict[str, tuple[int, int]] = {}  # memory of a module's variables, kept over restarts
        self._initialised: set[str] = set()  # modules whose variables have had their initial values

    def load(self, compiled: Compiled) -> LoadedModule:
        """The module, loaded if it was not."""
        with self._supervisor.lock:
            self._forget_lost()
            module = self._modules.get(compiled.key)
            if module is None:
                module = self._modules[compiled.key] = self._load(compiled)
            return module

    def __contains__(self, compiled: Compiled) -> bool:
        return self._generation == self._supervisor.generation and compiled.key in self._modules

    def _forget_lost(self) -> None:
        """Forgets what was loaded in a process that is gone."""
        if self._generation != self._supervisor.generation:
            self._generation = self._supervisor.generation
            self._modules.clear()

    def _load(self, compiled: Compiled) -> LoadedModule:
        memory, ask, request = self._supervisor.memory, self._supervisor.ask, self._supervisor.process.load
        key, path = compiled.source_key, str(compiled.path)
        address, room = self._variables.get(key, (0, 0))
        initialise = key not in self._initialised
        answer = ask(request, path, address, room, initialise)
        if isinstance(answer, int):  # the module has variables: this many bytes of shared memory for them
            address, room = memory.arena.take(answer, f"variables of {compiled.path.name}"), page_up(answer)
            self._variables[key] = address, room  # for good: the process may have it, however this ends
            answer = ask(request, path, address, room, initialise)
        module = LoadedModule(json.loads(answer), memory.view)
        if initialise:
            module.initialise()
            self._initialised.add(key)
        return module

    def variables(self) -> list[tuple[int, int, str]]:
        """(begin, end, name) of every variable of the modules that are loaded."""
        with self._supervisor.lock:
            self._forget_lost()
            return [found for module in self._modules.values() for found in module.variables()]

    def places(self) -> list[PageRange]:
        """The memory of the variables of every module that ever was loaded."""
        return [(begin, begin + size) for begin, size in list(self._variables.values())]

    def clear(self) -> None:
        """The process has ended."""
        self._modules.clear()


def _look_up(what: str, name: str, table: dict[str, T]) -> T:
    if name not in table:
        known = ", ".join(sorted(table)) or "none"
        raise ArgumentError(f"there is no {what} {name!r} in this module; it has: {known}")
    return table[name]


def _place(entry: dict[str, Any]) -> Reach:
    """The pages of a variable, and whether kernels may write there."""
    begin = entry["address"]
    return (*Range(begin, begin + entry["bytes"]).pages, not entry["constant"])


def _kernel(entry: dict[str, Any], variables: tuple[Reach, ...]) -> LoadedKernel:
    parameters = tuple(Parameter(**{**item, "kind": _KINDS[item["kind"]]}) for item in entry["params"])
    return LoadedKernel(
        name=entry["name"],
        handle=entry["handle"],
        parameters=parameters,
        parameter_bytes=entry["param_bytes"],
        static_shared=entry["static_shared"],
        max_threads=entry["max_threads"],
        mode=entry["mode"],
        waits=entry["waits"],
        variables=variables,
    )
