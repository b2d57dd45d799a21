"""Launches in flight take longer together than one may take: who waits for all of them waits. On the stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# HMMEMU_WAIT_SECONDS is read when hmmemu is loaded: so in a program of its own.
PROGRAM = r"""
import pathlib, sys, threading, time, types
import fakecuda
import numpy as np
import hmmemu as hmm
from hmmemu import gpus

compiler = sys.modules["hmmemu.cuda_compile"] = types.ModuleType("hmmemu.cuda_compile")
compiler.compile_module = fakecuda.compile_module
gpus.installed_cupy = lambda: "cupy-cuda12x 14.2.0"

kernels = hmm.RawModule('extern "C" __global__ void add(int* x, int n) { for (int i = 0; i < n; ++i) x[i] += 1; }')
with hmm.AddressSpace("cuda", timeout=60) as space:
    x, y, stream = space.zeros(1024, np.int32), space.zeros(1024, np.int32), hmm.Stream()
    with space.devices[0]:
        for _ in range(24):
            kernels.get_function("add")((1,), (1,), (x, np.int32(x.size)), stream=stream)
    launched = pathlib.Path(sys.argv[1])
    while len(launched.read_text().split()) < 24:
        time.sleep(0.005)
    # Each wants the page; one waits for the GPU with the page locked, the others for the page.
    readers = [threading.Thread(target=space.prefetch, args=(x, hmm.cpu)) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    print(x[0], stream.done)
    stream.synchronize()
"""


def test_a_limit_is_for_one_launch(stand_in, tmp_path):
    """24 launches of 0.3 s; the GPU has 5 s for an answer, and a page 6 to be there."""
    launched = tmp_path / "launched"
    launched.touch()
    stand_in(f"kernel_us=300000,delay_us=20,launched={launched}")
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(launched)],
        env=os.environ | {"HMMEMU_WAIT_SECONDS": "6", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "24 True\n"), done.stderr
