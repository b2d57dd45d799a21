"""Which tracker "auto" and a name come out as, for every answer that the probes can give."""

from __future__ import annotations

import warnings

import pytest

import hmmemu as hmm
from hmmemu import _native, choices, trackers

ALL = {"userfaultfd": "syscall", "features": [], "reason": "every access is caught, system calls included"}
USER_MODE = {"userfaultfd": "user-mode", "features": [], "reason": "user-mode faults only: system calls fail"}
NONE = {"userfaultfd": "none", "features": [], "reason": "userfaultfd is refused here"}
OLD = {"userfaultfd": "syscall", "features": [], "reason": "no shared memory: Linux 5.19 or later is needed"}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with all trackers, on which each test changes the answers of the probes."""
    monkeypatch.delenv("HMMEMU_TRACKER", raising=False)
    monkeypatch.setattr(choices, "_told", set())
    monkeypatch.setattr(trackers, "IMPLEMENTED", trackers.NAMES)

    def answer(userfaultfd, signal="", asynchronous=""):
        monkeypatch.setattr(_native, "probe", lambda: userfaultfd)
        monkeypatch.setattr(_native, "why_no_signal_tracker", lambda: signal)
        monkeypatch.setattr(_native, "why_no_async_tracker", lambda: asynchronous)

    answer(ALL)
    return answer


def test_uffd_where_it_catches_everything():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choices.choose_tracker("auto") == ("uffd", ALL["reason"])


@pytest.mark.parametrize("userfaultfd", [USER_MODE, NONE, OLD])
def test_signal_where_uffd_falls_short_and_one_word_about_it(machine, userfaultfd):
    machine(userfaultfd)
    with pytest.warns(hmm.FallbackWarning, match="tracker 'signal'") as told:
        name, why = choices.choose_tracker("auto")
    assert name == "signal" and userfaultfd["reason"] in why and "EFAULT" in why
    assert userfaultfd["reason"] in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choices.choose_tracker("auto") == (name, why)


def test_uffd_as_far_as_it_goes_where_signal_does_not_work(machine):
    machine(USER_MODE, signal="forced writes are refused")
    with pytest.warns(hmm.FallbackWarning, match="system calls fail"):
        assert choices.choose_tracker("auto") == ("uffd", USER_MODE["reason"])


def test_nothing_works(machine):
    machine(NONE, signal="forced writes are refused", asynchronous="no scan")
    with pytest.raises(
        hmm.UnsupportedError, match=r"uffd: userfaultfd is refused.*signal: forced.*async: no"
    ):
        choices.choose_tracker("auto")


@pytest.mark.parametrize("by_environment", [True, False])
@pytest.mark.parametrize("name", trackers.NAMES)
def test_a_name_forces(monkeypatch, name, by_environment):
    asked = "auto" if by_environment else name
    if by_environment:
        monkeypatch.setenv("HMMEMU_TRACKER", name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choices.choose_tracker(asked)[0] == name


def test_forced_and_impossible(machine, monkeypatch):
    machine(NONE, signal="forced writes are refused", asynchronous="no scan")
    reasons = {"uffd": "refused here.*sysctl vm.unprivileged", "signal": "forced writes", "async": "no scan"}
    for name, reason in reasons.items():
        with pytest.raises(hmm.UnsupportedError, match=f"tracker '{name}' cannot work here: .*{reason}"):
            choices.choose_tracker(name)
    monkeypatch.setattr(trackers, "IMPLEMENTED", ("uffd",))
    with pytest.raises(hmm.UnsupportedError, match="does not have it yet"):
        choices.choose_tracker("async")


def test_no_such_tracker(monkeypatch):
    monkeypatch.setenv("HMMEMU_TRACKER", "nosuch")
    with pytest.raises(hmm.ArgumentError, match=r"'nosuch': use 'auto' or one of 'uffd', 'signal', 'async'"):
        choices.choose_tracker("auto")


def test_an_empty_variable_says_nothing(monkeypatch):
    monkeypatch.setenv("HMMEMU_TRACKER", "")
    assert choices.choose_tracker("auto")[0] == "uffd"
    monkeypatch.setenv("HMMEMU_DEVICE", "")
    assert choices.choose_device("auto").why.startswith("device='auto'")


def test_probes_of_this_machine_try_for_real():
    assert isinstance(_native.why_no_signal_tracker(), str) and isinstance(
        _native.why_no_async_tracker(), str
    )
    assert [t.name for t in trackers.probe_all()] == list(trackers.NAMES)
