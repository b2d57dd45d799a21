"""`bench faults` in small: every transition of every tracker, pinned and not, and that its yardsticks verify."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hmmemu import trackers
from hmmemu.bench import faults
from hmmemu.bench.peer import NATIVE, Peer
from hmmemu.bench.result import Result
from hmmemu.compiler import find_compiler


def usable(name: str) -> bool:
    return trackers.probe(name).usable


@pytest.mark.parametrize("tracker", trackers.NAMES)
def test_every_transition_pinned_and_not(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not usable(tracker):
        pytest.skip(f"tracker {tracker} does not work here")
    monkeypatch.setattr(faults, "PAGES", 64)
    before = os.sched_getaffinity(0)
    result = Result("faults", faults.QUESTION)
    faults.measure(result, tracker, rounds=2)
    names = [row.name for row in result.rows]
    assert len(names) == len(set(names)) == 2 * len(faults.TRANSITIONS)
    assert all(
        row.name.startswith((f"{tracker}, pinned: ", f"{tracker}, not pinned: ")) for row in result.rows
    )
    alone = [row.name for row in result.rows if row.peer is None]
    assert len(alone) == (2 if tracker == "async" else 0)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("source", ["faults", "faults_signal"])
def test_yardstick_times_every_transition(source: str) -> None:
    if source == "faults" and not usable("uffd"):
        pytest.skip("no userfaultfd here")
    cpu = str(min(os.sched_getaffinity(0)))
    with Peer(source, flags=("-Wall", "-Wextra", "-Werror"), arguments=["64", cpu, cpu]) as peer:
        for _ in range(2):
            times = peer.ask()
            assert len(times) == len(faults.TRANSITIONS) and min(times) > 0


@pytest.mark.parametrize(
    ("source", "line", "wrong"),
    [
        ("faults", "install(p, address, staging, true);", "install(p, address, zeros, true);"),
        ("faults_signal", "if (state == kDevice)", "if (state == kNobody)"),
    ],
)
def test_yardstick_notices_lost_content(source: str, line: str, wrong: str, tmp_path: Path) -> None:
    """A yardstick that skips the copy would be too fast; it must end with an error and not print a time."""
    if source == "faults" and not usable("uffd"):
        pytest.skip("no userfaultfd here")
    text = (NATIVE / f"{source}.cpp").read_text()
    assert text.count(line) == 1
    broken = tmp_path / "broken.cpp"
    broken.write_text(text.replace(line, wrong))
    program = tmp_path / "broken"
    command = [
        *find_compiler().command,
        "-std=c++20",
        "-I",
        str(NATIVE),
        "-o",
        str(program),
        str(broken),
        "-lpthread",
    ]
    subprocess.run(command, check=True, timeout=100)
    cpu = str(min(os.sched_getaffinity(0)))
    done = subprocess.run([program, "64", cpu, cpu], input="\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "read a sum of" in done.stderr and not done.stdout
