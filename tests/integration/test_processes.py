"""Ways of starting Python, and processes that it starts: a space works in each, and the parent's is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hmmemu import trackers

PROGRAM = """
import multiprocessing, sys
import numpy as np, hmmemu as hmm

SOURCE = 'extern "C" __global__ void add(int* x) { x[threadIdx.x] += 1; }'

def launch(n):
    with hmm.AddressSpace(device="emulated") as space:
        x = space.full(64, n, np.int32)
        hmm.RawKernel(SOURCE, "add")(1, 64, (x,))
        return int(x.sum())

if __name__ == "__main__":
    with hmm.AddressSpace(device="emulated") as space:
        x = space.zeros(64, np.int32)
        add = hmm.RawKernel(SOURCE, "add")
        add(1, 64, (x,))
        if len(sys.argv) > 1:
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                print(pool.map(launch, range(3)))
        add(1, 64, (x,))
        print(x.sum())
"""


def run(folder: Path, options: list[str], *arguments: str) -> str:
    (folder / "program.py").write_text(PROGRAM)
    found = trackers.best()
    assert found  # asked for, it warns of nothing
    done = subprocess.run(
        [sys.executable, *options, "program.py", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=folder,
        env={**os.environ, "HMMEMU_DEVICE": "emulated", "HMMEMU_TRACKER": found.name},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_pools_of_processes(tmp_path: Path, method: str) -> None:
    assert run(tmp_path, [], method) == "[64, 128, 192]\n128\n"


@pytest.mark.parametrize("options", [["-O"], ["-X", "dev", "-W", "error"], ["-I"]], ids="".join)
def test_options_of_python(tmp_path: Path, options: list[str]) -> None:
    assert run(tmp_path, options) == "128\n"
