"""Contract tests where less is allowed: userfaultfd refused, an unprivileged user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from refusing import REFUSE_USERFAULTFD, as_other_user
from running import run_python

from hmmemu import trackers

SUITE = Path(__file__).parents[1] / "contract"
# As root and by tracker signal, all of it runs anyway: these show that the choice is right and nothing else is missing.
EVERY_KIND = [
    str(SUITE / f"test_{name}.py")
    for name in ("hmm_cases", "kinds_of_memory", "shared_memory", "transitions", "atomics_in_place")
]
RUN_SUITE = """
import os, shutil, sys, tempfile
if not os.access(sys.executable, os.X_OK):  # in root's home: it runs, but cannot be started by who it runs as
    sys.executable = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.exit(77)
home = tempfile.mkdtemp()
with open(home + "/sitecustomize.py", "w") as file:  # programs that tests start import what this one does
    file.write("import site\\nfor folder in " + repr(sys.path) + ": site.addsitedir(folder)")
os.environ["PYTHONPATH"] = home
os.environ.update(HMMEMU_CACHE_DIR=home, HMMEMU_DEVICE="emulated", TMPDIR=home)
import pytest, hmmemu.space
from hmmemu.choices import choose_tracker
print("auto is", choose_tracker("auto")[0])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--tracker", TRACKER, *TESTS]))
"""

LIMIT = 280  # seconds; a tenth of it on a machine that does nothing else
needs_signal = pytest.mark.skipif("signal" not in trackers.IMPLEMENTED, reason="no tracker 'signal' yet")


def passes(code: str, *before: str) -> str:
    """Runs the suite in a program of its own; returns what "auto" was there."""
    done = run_python(code, *before, timeout=LIMIT)
    if done.returncode == 77:
        pytest.skip("no Python that an unprivileged user can start")
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed[1]) > 30, done.stdout + done.stderr
    found = re.search(r"auto is (\w+)", done.stdout)
    assert found
    return found[1]


@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize("tracker", ["auto"], indirect=True)
def test_as_an_unprivileged_user(tracker: str) -> None:
    passes(f"TRACKER, TESTS = 'auto', {EVERY_KIND!r}" + RUN_SUITE, *as_other_user())


@needs_signal
@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize("tracker", ["auto"], indirect=True)
def test_with_userfaultfd_refused(tracker: str) -> None:
    assert passes(REFUSE_USERFAULTFD + f"TRACKER, TESTS = 'auto', {EVERY_KIND!r}" + RUN_SUITE) == "signal"


@needs_signal
@pytest.mark.parametrize("tracker", ["auto"], indirect=True)
def test_auto_says_why_it_is_signal(tracker: str) -> None:
    done = run_python(
        REFUSE_USERFAULTFD
        + """
import warnings
import hmmemu as hmm
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        with hmm.AddressSpace(device="emulated") as space:
            print(space)
print(len(told), told[0].category.__name__, told[0].message)
"""
    )
    assert done.returncode == 0, done.stderr
    first, second, warning = done.stdout.splitlines()
    assert "tracker signal" in first and "userfaultfd is refused" in first and "tracker signal" in second
    assert warning.startswith("1 FallbackWarning") and "userfaultfd is refused" in warning


@pytest.mark.parametrize("name", ["uffd", "async"])
def test_a_tracker_that_is_asked_for_and_cannot_work(name: str) -> None:
    done = run_python(
        REFUSE_USERFAULTFD
        + f"""
import hmmemu as hmm
try:
    hmm.AddressSpace(device="emulated", tracker={name!r})
except hmm.UnsupportedError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert f"tracker '{name}' cannot work here" in done.stdout and "hmmemu doctor" in done.stdout
    if name in trackers.IMPLEMENTED:
        assert "userfaultfd is refused" in done.stdout
    if name == "uffd":
        assert "vm.unprivileged_userfaultfd=1" in done.stdout and "seccomp" in done.stdout


SHARED_HUGE_PAGES = """
import mmap, os, numpy as np, hmmemu as hmm
fd = os.memfd_create("huge", os.MFD_HUGETLB)
os.truncate(fd, 2 << 20)
x = np.frombuffer(mmap.mmap(fd, 2 << 20), np.int32)
os.close(fd)
anonymous = np.frombuffer(mmap.mmap(-1, 2 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000), np.int32)
with hmm.AddressSpace(device="emulated") as space:
    space.register(x)  # its mmap object keeps a descriptor
    space.devices[0].write(x, 5)
    assert (x == 5).all()
    try:
        space.register(anonymous)
    except hmm.UnsupportedError as error:
        print(error)
    anonymous[:] = 3  # plain memory still
"""


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("tracker", [name for name in trackers.IMPLEMENTED if name != "async"], indirect=True)
def test_shared_huge_pages_of_an_unprivileged_user(tracker: str) -> None:
    done = run_python(SHARED_HUGE_PAGES, *as_other_user())
    assert done.returncode == 0, done.stderr
    assert "map_files" in done.stdout and "hmm.asarray" in done.stdout
