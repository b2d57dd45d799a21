"""What is not there is said in one clear error: no room, no permission, no /proc, no descriptors."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

import pytest
from refusing import as_other_user
from running import run_python


def test_an_unprivileged_user_runs_kernels() -> None:
    done = run_python(
        """
        import os, tempfile
        os.environ["HMMEMU_CACHE_DIR"] = tempfile.mkdtemp()
        import numpy as np, hmmemu as hmm
        k = hmm.RawKernel('extern "C" __global__ void k(int* x) { x[threadIdx.x] += 1; }', "k")
        with hmm.AddressSpace(device="emulated") as space:
            x, y = space.zeros(64, np.int32), np.ones(64, np.int32)
            k(1, 64, (x,)); k(1, 64, (y,))
            print(x.sum(), y.sum())
        """,
        *as_other_user(),
    )
    assert (done.returncode, done.stdout) == (0, "64 128\n"), done.stderr


def test_little_address_space() -> None:
    done = run_python(
        """
        import numpy as np, resource
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        import hmmemu as hmm
        try:
            hmm.AddressSpace(device="emulated")
        except hmm.OutOfMemoryError as error:
            print(error)
        print(np.ones(3).sum())
        """
    )
    assert done.returncode == 0, done.stderr
    assert "ulimit -v" in done.stdout and done.stdout.endswith("3.0\n")


PROGRAM = """
import numpy as np, hmmemu as hmm
def launch():
    k = hmm.RawKernel('extern "C" __global__ void k(int* x) { x[threadIdx.x] += %d; }' % VALUE, "k")
    with hmm.AddressSpace(device="emulated") as space:
        x = space.zeros(64, np.int32)
        k(1, 64, (x,))
        return int(x.sum())
def tell(action):
    try:
        print(action())
    except hmm.Error as error:
        print(type(error).__name__, error)
"""


def unshared(code: str, *mounts: str) -> str:
    """What the code prints where file systems are mounted as `mounts` say, for this program alone."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("only root may mount file systems of its own (unshare -m)")
    words = " && ".join(f"mount -t tmpfs {mount}" for mount in mounts)
    done = run_python(code, "unshare", "-m", "sh", "-c", f'{words} && exec "$@"', "sh")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_few_descriptors() -> None:
    """However few there are: it works, or says that it is descriptors that are missing."""
    code = """
        import gc, os, resource, tempfile
        os.environ["HMMEMU_CACHE_DIR"] = tempfile.mkdtemp()
        import hmmemu.compiler
        used = len(os.listdir("/proc/self/fd")) - 1
        for more in range(2, 42, 4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, 4096))
            try:
                print(launch())
            except (hmm.Error, OSError) as error:
                print(error)
            gc.collect()  # what the closed space holds, it holds until then
    """
    done = run_python("VALUE = 5" + PROGRAM + textwrap.dedent(code))
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 10, done.stderr
    assert lines[-1] == "320"
    assert all(line == "320" or "Too many open files" in line for line in lines), lines
    assert "Too many open files" in lines[0]


def test_without_proc() -> None:
    code = (
        "VALUE = 1"
        + PROGRAM
        + "y = np.ones(64); tell(lambda: hmm.AddressSpace(device='emulated').register(y))"
    )
    assert "UnsupportedError" in (told := unshared(code, "none /proc")) and "mount /proc" in told


def test_shared_memory_that_has_no_room() -> None:
    code = """
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=4 << 20)
x = np.frombuffer(memory.buf, np.int32)
tell(lambda: hmm.AddressSpace(device="emulated").register(x))
del x
memory.unlink()
"""
    told = unshared("VALUE = 1" + PROGRAM + code, "-o size=1m none /dev/shm")
    assert "RangeError" in told and "/dev/shm, is full" in told


@pytest.mark.parametrize(
    ("options", "answer"), [("-o ro none", "128\n"), ("-o size=4k none", "No space left on device")]
)
def test_a_cache_that_cannot_be_written(tmp_path: Path, options: str, answer: str) -> None:
    code = (
        f"VALUE = 2; import os; os.environ['HMMEMU_CACHE_DIR'] = {str(tmp_path)!r}" + PROGRAM + "tell(launch)"
    )
    assert answer in unshared(code, f"{options} {tmp_path}")
