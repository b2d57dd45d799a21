"""What is not there is said in one clear error: no room, no permission."""

from __future__ import annotations

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
