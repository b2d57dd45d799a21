"""Yardsticks written in C++: compiled when a bench runs, with the compiler that kernels use, and asked line by line.

A peer is a program that reads requests from stdin and answers each with one line of numbers; it ends with its stdin.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from hmmemu.bench.result import Result
from hmmemu.compiler import find_compiler
from hmmemu.errors import CompileError, Error

NATIVE = Path(__file__).parent / "native"


class Peer:
    """A running yardstick. As a context manager it ends with the block.

    Args:
        name: of the source file in bench/native, without its ending.
        flags: of the compiler, beyond -O3 -march=native -std=c++20.
        arguments: of the program.
        environment: of the program; None means ours.

    Raises:
        CompileError: the source does not compile here; NoCompilerError: there is no compiler.
    """

    def __init__(
        self,
        name: str,
        *,
        flags: Sequence[str] = ("-fopenmp",),
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="hmmemu-bench-")
        program = Path(self._folder.name) / name
        source = NATIVE / f"{name}.cpp"
        command = [*find_compiler().command, "-O3", "-march=native", "-std=c++20", *flags]
        done = subprocess.run(
            [*command, "-o", str(program), str(source), "-lpthread"], capture_output=True, text=True
        )
        if done.returncode != 0:
            self._folder.cleanup()
            raise CompileError(f"{source} does not compile:\n{done.stderr}")
        self._process = subprocess.Popen(
            [str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )

    def ask(self, *request: object) -> list[float]:
        """Sends one line and returns the numbers of the answer. Raises Error if the program has ended."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(" ".join(map(str, request)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            raise Error(f"the yardstick {self.name} ended with status {self._process.wait()} at {request}")
        return [float(word) for word in answer.split()]

    def close(self) -> None:
        """Ends the program and removes it."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # it has ended, with a request unread
            self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def openmp_peer(name: str, result: Result) -> Iterator[Peer | None]:
    """The OpenMP yardstick `name` on every CPU this process may use; None, with a note in `result`, without OpenMP."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    try:
        peer = Peer(name, environment=environment)
    except CompileError as error:
        result.notes.append(f"No yardstick: {str(error).splitlines()[-1]}")
        yield None
        return
    with peer:
        yield peer
