"""`hmmemu doctor`, for real."""

from __future__ import annotations

import json
import os
import platform

import pytest
from commands import hmmemu

from hmmemu import trackers


@pytest.fixture(scope="module")
def diagnosis():
    done = hmmemu("doctor", "--json", "-")
    return done, json.loads(done.stdout)


def checks_of(document):
    return {check["name"]: check for check in document["checks"]}


def test_this_machine_is_able(diagnosis):
    done, document = diagnosis
    assert done.returncode == 0, done.stderr
    assert document["able"] is True
    assert "Kernels can run here." in done.stderr


def test_reports_the_machine(diagnosis):
    checks = checks_of(diagnosis[1])
    assert platform.release() in checks["system"]["value"]
    assert checks["CPUs"]["value"].startswith(f"{len(os.sched_getaffinity(0))} usable")
    assert checks["page size"]["value"] == "4096 bytes"
    with open("/proc/sys/vm/max_map_count") as file:
        assert checks["vm.max_map_count"]["value"] == file.read().strip()
    assert checks["userfaultfd"]["ok"] == trackers.probe("uffd").system_calls
    assert checks["userfaultfd features"]["value"] != "none reported"


def test_says_which_parts_are_in_use(diagnosis):
    checks = checks_of(diagnosis[1])
    assert "mulated" in checks["device"]["value"]
    name, why = checks["tracker"]["value"].split(": ", 1)
    assert name in trackers.IMPLEMENTED and why
    assert checks["HMMEMU_DEVICE"]["value"] == "emulated (from the environment)"


def test_a_line_for_each_tracker(diagnosis):
    checks = checks_of(diagnosis[1])
    lines = [checks[f"tracker {name}"] for name in trackers.NAMES]
    assert all(line["value"] for line in lines)
    taken = [line for line in lines if "what 'auto' takes" in line["value"]]
    assert len(taken) == 1 and taken[0]["needed"] and taken[0]["ok"]
    assert taken[0]["name"].removeprefix("tracker ") == trackers.best().name


def test_table_marks_each_check(diagnosis):
    done, document = diagnosis
    assert sum(done.stderr.count(mark) for mark in "✓✗–") == len(document["checks"])


def test_without_a_compiler(tmp_path):
    done = hmmemu("doctor", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "✗  C++ compiler" in done.stdout
    assert "Kernels cannot run here" in done.stdout and "What would help:" in done.stdout


def test_tracker_that_does_not_exist():
    done = hmmemu("doctor", HMMEMU_TRACKER="nosuch")
    assert done.returncode == 1 and "nosuch" in done.stdout


@pytest.mark.parametrize(
    ("probe", "ok", "needed", "words"),
    [
        (
            {"userfaultfd": "syscall", "features": ["a", "b"], "reason": "all"},
            True,
            False,
            "by the system call: all",
        ),
        ({"userfaultfd": "dev", "features": ["a"]}, True, False, "by /dev/userfaultfd"),
        (
            {"userfaultfd": "user-mode", "features": [], "reason": "no system calls"},
            False,
            False,
            "no system calls",
        ),
        ({"userfaultfd": "none", "reason": "seccomp"}, False, True, "not allowed: seccomp"),
        ({}, False, True, "not allowed"),
    ],
)
def test_each_way_to_userfaultfd(monkeypatch, probe, ok, needed, words):
    from hmmemu import _native
    from hmmemu.cli import checks

    monkeypatch.setattr(_native, "probe", lambda: probe)
    monkeypatch.setattr(_native, "why_no_signal_tracker", lambda: "no /proc")
    check = next(c for c in checks._catching() if c.name == "userfaultfd")
    assert (check.ok, check.needed, check.value) == (ok, needed, words)
    assert bool(check.advice) is not ok
    monkeypatch.setattr(_native, "why_no_signal_tracker", lambda: "")
    monkeypatch.setattr(trackers, "IMPLEMENTED", trackers.NAMES)
    check = next(c for c in checks._catching() if c.name == "userfaultfd")
    assert not check.needed
