"""Workloads in which CPU and devices use the same words by system atomics: exact on each link, by each way of doing them."""

from __future__ import annotations

import pytest

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS

NAMES = [name for name in WORKLOADS if "_system(" in WORKLOADS[name].source]

# Every pair of a link, a fallback, a number of devices and a number of worker threads that makes sense.
SPACES = {
    "nothing native": {"link": "pcie3-noatomics", "fallback": "migrate"},
    "nothing native, two devices": {
        "link": "pcie3-noatomics",
        "fallback": "migrate",
        "devices": 2,
        "workers": 1,
    },
    "some native": {"link": "pcie4", "fallback": "migrate", "workers": 1},
    "some native, two devices": {"link": "pcie4", "fallback": "migrate", "devices": 2},
    "loops": {"link": "pcie4", "fallback": "cas-loop"},
    "loops, two devices": {"link": "pcie4", "fallback": "cas-loop", "devices": 2, "workers": 1},
    "all native": {"link": "nvlink-c2c", "fallback": "cas-loop", "workers": 1},
    "all native, two devices": {"link": "nvlink-c2c", "fallback": "migrate", "devices": 2},
}


def test_there_are_such_workloads() -> None:
    assert {"bfs_switch", "sssp", "ransac"} <= set(NAMES)


@pytest.mark.parametrize("way", SPACES)
def test_results_are_exact(way: str) -> None:
    """One worker thread a device: more blocks wait than there are threads."""
    with hmm.AddressSpace(device="emulated", timeout=60, **SPACES[way]) as space:
        for name in NAMES:
            outcome = WORKLOADS[name].run(space, "tiny", seed=2)
            assert outcome.verified, (name, outcome.mismatch)


@pytest.mark.parametrize("name", NAMES)
def test_one_page_at_a_time(name: str) -> None:
    """Pages that come alone meet more of each other's accesses than those that a fault brings along."""
    with hmm.AddressSpace(device="emulated", timeout=60, policy=hmm.Policy(grow=False)) as space:
        outcome = WORKLOADS[name].run(space, "tiny", seed=3)
        assert outcome.verified, outcome.mismatch


@pytest.mark.parametrize("name", ["ransac"])
def test_loops_need_compare_and_swap(name: str) -> None:
    with (
        hmm.AddressSpace(device="emulated", timeout=60, link="pcie3-noatomics", fallback="cas-loop") as space,
        pytest.raises(hmm.KernelError, match=r"atomic .* CPU's memory"),
    ):
        WORKLOADS[name].run(space, "tiny")
