"""Workloads in which CPU and devices use the same words by system atomics: exact on each link, by each way of doing them."""

from __future__ import annotations

import pytest

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS

NAMES = [name for name in WORKLOADS if "_system(" in WORKLOADS[name].source]

# Links, fallbacks, numbers of devices and of their worker threads, in pairs; all of it runs under each tracker. A
# device of one thread has always more blocks that wait than threads.
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
    "all native, three devices": {"link": "nvlink-c2c", "fallback": "migrate", "devices": 3},
}


def run(space: hmm.AddressSpace, name: str, seed: int, fraction: float) -> None:
    workload = WORKLOADS[name]
    options = {"fraction": fraction} if workload.shares else {}
    outcome = workload.run(space, "tiny", seed=seed, **options)
    assert outcome.verified, (name, outcome.mismatch)


def test_there_are_such_workloads() -> None:
    assert {"bfs_switch", "sssp", "ransac"} <= set(NAMES)


@pytest.mark.parametrize("way", SPACES)
def test_results_are_exact(way: str) -> None:
    with hmm.AddressSpace(device="emulated", timeout=60, **SPACES[way]) as space:
        for name in NAMES:
            for seed, fraction in enumerate((0.3, 0.7)):
                run(space, name, seed, fraction)


@pytest.mark.parametrize("name", NAMES)
def test_one_page_at_a_time(name: str) -> None:
    """Pages that come alone meet more of each other's accesses than those that a fault brings along."""
    with hmm.AddressSpace(device="emulated", timeout=60, policy=hmm.Policy(grow=False)) as space:
        run(space, name, 3, 0.5)


def test_loops_need_compare_and_swap() -> None:
    with (
        hmm.AddressSpace(device="emulated", timeout=60, link="pcie3-noatomics", fallback="cas-loop") as space,
        pytest.raises(hmm.KernelError, match=r"atomic .* CPU's memory"),
    ):
        WORKLOADS["ransac"].run(space, "tiny")
