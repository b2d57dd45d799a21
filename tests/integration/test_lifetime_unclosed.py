"""Spaces that nobody closes: the collector, or leaving the interpreter, closes them as `close` would."""

from __future__ import annotations

from running import run_python


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
