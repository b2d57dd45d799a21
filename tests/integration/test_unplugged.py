"""What is not there is said in one clear error: no userfaultfd, no room, no permission for system calls."""

from __future__ import annotations

import os
import shutil

import pytest
from running import run_python

# A seccomp filter that refuses userfaultfd(2) with EPERM, as container profiles do; /dev/userfaultfd is hidden by
# becoming an ordinary user.
REFUSE = """
import ctypes, os, platform, struct, sys
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
def instruction(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
program = b"".join([instruction(0x20, 0, 0, 0), instruction(0x15, 0, 1, number),
                    instruction(0x06, 0, 0, 0x00050001), instruction(0x06, 0, 0, 0x7FFF0000)])
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]
filter = Filter(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
if os.path.exists("/dev/userfaultfd") and os.access("/dev/userfaultfd", os.R_OK): sys.exit(77)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter)) == 0, ctypes.get_errno()
"""
OTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def as_other_user() -> tuple[str, ...]:
    """Words that run a program as an unprivileged user, where this process may do that."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not installed")
    if run_python("import numpy", *OTHER_USER).returncode:
        pytest.skip("an unprivileged user cannot read this Python installation")
    return OTHER_USER


def test_userfaultfd_refused() -> None:
    done = run_python(
        REFUSE
        + """
import hmmemu as hmm
try:
    hmm.AddressSpace(device="emulated")
except hmm.UnsupportedError as error:
    print(error)
""",
        *as_other_user(),
    )
    if done.returncode == 77:
        pytest.skip("/dev/userfaultfd is open to every user here")
    assert done.returncode == 0, done.stderr
    assert "userfaultfd is refused" in done.stdout
    assert "vm.unprivileged_userfaultfd=1" in done.stdout and "seccomp" in done.stdout


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
