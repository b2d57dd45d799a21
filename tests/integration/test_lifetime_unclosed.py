"""Spaces that nobody closes: the collector, or leaving the interpreter, closes them as `close` would."""

from __future__ import annotations

import mmap
import multiprocessing
from pathlib import Path

import numpy as np
from running import run_python

import hmmemu as hmm


def test_a_dropped_space_is_closed() -> None:
    """In a program of its own, as it would die if pages came home from a process that is gone."""
    done = run_python("""
        import gc, os
        import numpy as np, hmmemu as hmm

        kernel = hmm.RawKernel('extern "C" __global__ void add(int* x, int n) { for (int i = 0; i < n; i++) x[i]++; }', "add")

        def use(keep):
            space = hmm.AddressSpace(device="emulated", devices=2)
            x, plain = space.ones(5000, np.int32), np.ones(5000, np.int32)
            with space.devices[1]:
                kernel(1, 1, (x, 5000))
                kernel(1, 1, (plain, 5000), stream=hmm.Stream())
            space.dirty(x)
            return (x, plain) if keep else ()

        def descriptors():
            return len(os.listdir("/proc/self/fd"))

        use(False)
        gc.collect()
        before = descriptors()
        for i in range(4):
            kept = use(i % 2)
            gc.collect()
            print(*(array.sum() for array in kept), len(hmm.space.open_spaces()))
        del kept
        gc.collect()
        print(descriptors() - before)
    """)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout.splitlines() == ["0", "10000 10000 0"] * 2 + ["0"]


def test_the_thread_of_protectors_ends_with_a_dropped_space() -> None:
    """Also where that thread is the one in which Python collects."""
    done = run_python("""
        import gc, threading
        import hmmemu as hmm

        class Collector:
            def on_write(self, pages):
                gone.wait(30)
                gc.collect()
                collected.set()

        def use():
            space = hmm.AddressSpace(device="emulated")
            x = space.zeros(10)
            space.protect(x, Collector())
            x[0] = 1
            space.devices[0].synchronize()
            return x

        gone, collected = threading.Event(), threading.Event()
        gc.disable()
        x = use()
        thread = next(t for t in threading.enumerate() if t.name == "hmm-protectors")
        gone.set()
        assert collected.wait(30)
        thread.join(30)
        print(thread.is_alive(), x[0], len(hmm.space.open_spaces()))
    """)
    assert done.stderr == "" and done.stdout == "False 1.0 0\n" and done.returncode == 0


def test_a_fault_in_a_dropped_space_is_told() -> None:
    done = run_python("""
        import gc
        import numpy as np, hmmemu as hmm

        wild = hmm.RawKernel('extern "C" __global__ void wild(int* x) { x[1L << 40] = 1; }', "wild")

        def use():
            space = hmm.AddressSpace(device="emulated")
            x = space.full(5000, 7, np.int32)
            space.devices[0].migrate(x)
            with space.devices[0]:
                wild(1, 1, (x,), stream=hmm.Stream())
            return x

        x = use()
        gc.collect()
        print(x.sum(), len(hmm.space.open_spaces()))
    """)
    assert done.stdout == "35000 0\n" and done.returncode == 0
    assert "KernelFault" in done.stderr


def test_at_exit_a_failure_in_one_space_leaves_no_other_open(tmp_path: Path) -> None:
    """What the other's device wrote to a file, which a thread still has, is there afterwards."""
    file = tmp_path / "numbers"
    np.zeros(4096, np.int32).tofile(file)
    done = run_python(f"""
        import threading
        import numpy as np, hmmemu as hmm

        wild = hmm.RawKernel('extern "C" __global__ void wild(int* x) {{ x[1L << 40] = 1; }}', "wild")
        failing, other = (hmm.AddressSpace(device="emulated") for _ in range(2))

        def hold():
            numbers = np.memmap({str(file)!r}, np.int32, "r+")
            other.devices[0].write(other.register(numbers), 7)
            written.set()
            threading.Event().wait()

        written = threading.Event()
        threading.Thread(target=hold, daemon=True).start()
        assert written.wait(30)
        with failing.devices[0]:
            wild(1, 1, (failing.zeros(5000, np.int32),), stream=hmm.Stream())
    """)
    assert "KernelFault" in done.stderr
    assert (np.fromfile(file, np.int32) == 7).all()


def test_a_worker_of_multiprocessing_that_leaves() -> None:
    """What its device wrote to shared memory is there for the others."""

    def work() -> None:
        space = hmm.current_space()
        space.devices[0].write(space.register(shared), 7)

    shared = np.frombuffer(mmap.mmap(-1, 1 << 16), np.int32)
    worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0 and (shared == 7).all()


def test_a_fork_while_another_thread_opens_the_default_space_or_merges() -> None:
    """In the child that thread is not there, and neither is what it holds."""
    done = run_python("""
        import os, signal, threading
        import hmmemu as hmm
        from hmmemu import ksm
        from hmmemu.space import _spaces

        def make():
            opening.set()
            forked.wait(30)
            return hmm.AddressSpace(device="emulated")

        def merge():
            with ksm._merging:
                merging.set()
                forked.wait(30)

        opening, merging, forked = threading.Event(), threading.Event(), threading.Event()
        threads = [threading.Thread(target=lambda: _spaces.current(make)), threading.Thread(target=merge)]
        for thread in threads:
            thread.start()
        assert opening.wait(30) and merging.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if hmm.current_space().session.open and ksm._merging.acquire(timeout=30) else 1)
        forked.set()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        for thread in threads:
            thread.join(30)
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)
