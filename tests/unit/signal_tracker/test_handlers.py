"""The SIGSEGV handler of tracker `signal` beside those of others: each case in a program of its own.

`away()` takes the page's rights from the CPU, so that the next access is a fault that must be served; a crash must look
as it would without hmmemu.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from running import run_python

BEFORE = """
import ctypes, faulthandler, os, signal, sys, threading
import numpy as np, hmmemu as hmm
space = hmm.AddressSpace(device="emulated", tracker="signal")
x = space.full(1024, 7, np.int32)
def away():
    space.devices[0].write(x, 8)
def crash():
    ctypes.string_at(0x1000)
"""
FATAL = "Fatal Python error: Segmentation fault"


def run(code: str, *before: str) -> subprocess.CompletedProcess[str]:
    return run_python(BEFORE + code, *before)


def test_a_fault_is_served_and_a_crash_is_a_crash() -> None:
    done = run("away(); print(x[0], flush=True); x[1] = 1; crash()")
    assert done.stdout == "8\n"
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal" not in done.stderr


@pytest.mark.parametrize("thread", ["", "main"])
@pytest.mark.parametrize("when", ["before", "after", "while away"])
def test_faulthandler_still_prints(when: str, thread: str) -> None:
    """While away: its report of the first fault cannot be helped, but the program goes on."""
    enable = "faulthandler.enable();"
    code = enable + BEFORE + "away();" if when == "before" else BEFORE + enable + "away();"
    if when == "while away":
        code = BEFORE + "away();" + enable
    code = "import faulthandler\n" + code
    if not thread:
        code += "\nt = threading.Thread(target=lambda: print(x[0], flush=True)); t.start(); t.join()"
    done = run_python(code + "\nprint(x[0], flush=True); crash()")
    assert done.stdout.split() == ["8"] * (1 if thread else 2)
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.count(FATAL) == 1


@pytest.mark.parametrize("way", ["os.kill(os.getpid(), 11)", "signal.raise_signal(11)"])
@pytest.mark.parametrize("before", ["pass", "away(); x[0] = 1; away()"])
def test_a_sent_signal_is_no_fault(way: str, before: str) -> None:
    """Also when the last fault of the thread was one of ours, on a page that is away again."""
    assert run(f"{before}\n{way}\nprint('survived')").returncode == -signal.SIGSEGV


@pytest.mark.parametrize("when", ["before", "after"])
def test_handlers_of_python(when: str) -> None:
    install = "signal.signal(signal.SIGSEGV, lambda *_: print('told', flush=True))\n"
    code = "import signal\n" + (install + BEFORE if when == "before" else BEFORE + install)
    done = run_python(code + "away(); print(x[0]); signal.raise_signal(11); print(x[0])")
    assert (done.returncode, done.stdout) == (0, "8\ntold\n8\n")


def test_a_handler_that_comes_while_pages_are_away() -> None:
    """It returns without doing anything about the fault; ours comes back in a moment."""
    done = run("away()\nsignal.signal(11, lambda *_: print('told', flush=True))\nprint(x[0])")
    assert done.returncode == 0
    assert set(done.stdout.split()) == {"told", "8"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_alternate_stack_in_managed_memory(when: str) -> None:
    """As faulthandler's, which malloc puts beside small arrays: the kernel could not deliver the signal there."""
    install = """
class Stack(ctypes.Structure): _fields_ = [("low", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
whole = np.zeros(1 << 17, np.uint8)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(whole.ctypes.data + 24, 0, 1 << 16)), None) == 0
"""
    register = "space.register(whole); space.devices[0].write(whole, 3)\n"
    code = BEFORE + install + register if when == "before" else BEFORE + install + "away(); x[0]\n" + register
    done = run_python(
        code + "away(); print(x[0], whole.min(), whole.max(), flush=True); faulthandler.enable(); crash()"
    )
    assert done.stdout == "8 3 3\n" and done.stderr.count(FATAL) == 1


def test_ignored_signals_stay_ignored() -> None:
    done = run("signal.signal(11, signal.SIG_IGN); away(); x[0]; os.kill(os.getpid(), 11); print(x[0])")
    assert (done.returncode, done.stdout) == (0, "8\n")


def test_many_handlers_come_and_go() -> None:
    done = run("""
for i in range(40):
    faulthandler.enable(); away(); x[0] += 1
    faulthandler.disable(); away(); x[0] += 1
    signal.signal(11, signal.SIG_DFL); away(); x[0] += 1
print(x[0], flush=True); crash()
""")
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "9\n")


def test_after_the_space_is_closed() -> None:
    done = run("away(); space.close(); print(x[0], flush=True); crash()")
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "8\n")


def test_a_child_has_plain_memory() -> None:
    done = run("""
y = space.empty(4096, np.int32)  # never touched
away()
pid = os.fork()
if not pid:
    x[1] = 2
    ok = x[0] == 8 and not y.any()
    if ok: crash()
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), x[1])
""")
    assert done.stdout == f"{-signal.SIGSEGV} 8\n"


def test_many_threads_fault_at_once() -> None:
    done = run("""
x = space.empty(1 << 20, np.int64); x[:] = 0
lock = threading.Barrier(8)
def work(i):
    for round in range(20):
        if lock.wait() == 0: space.devices[0].migrate(x)
        lock.wait()
        x[i * 512 + 1 + i :: 4096] += 1
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
for i in range(8): assert (x[i * 512 + 1 + i :: 4096] == 20).all()
print(x.sum() == 8 * 20 * 256)
""")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


HANDLER = """
#include <csignal>
#include <cstdio>
#include <unistd.h>
static void report(int number, siginfo_t* info, void*) {
  sigset_t mask;
  sigprocmask(SIG_SETMASK, nullptr, &mask);
  dprintf(1, "%d %p %d%d%d\\n", number, info->si_addr, sigismember(&mask, SIGSEGV), sigismember(&mask, SIGUSR1),
          sigismember(&mask, SIGUSR2));
  _exit(3);
}
extern "C" void install() {
  struct sigaction action {};
  action.sa_sigaction = report;
  action.sa_flags = SA_SIGINFO;
  sigaddset(&action.sa_mask, SIGUSR1);
  sigaction(SIGSEGV, &action, nullptr);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handler")
    (folder / "handler.cpp").write_text(HANDLER)
    subprocess.run(
        ["c++", "-shared", "-fPIC", "-o", folder / "handler.so", folder / "handler.cpp"],
        check=True,
        timeout=60,
    )
    return folder / "handler.so"


def test_other_handlers_see_address_and_mask(library: Path) -> None:
    done = run(f"ctypes.CDLL('{library}').install(); away(); x[0]; ctypes.string_at(0x123456)")
    assert (done.returncode, done.stdout) == (3, "11 0x123456 110\n")
