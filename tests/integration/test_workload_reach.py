"""Every workload names all that its kernels reach, as a GPU needs it."""

from __future__ import annotations

import pytest

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS


@pytest.fixture
def confined(tracker):
    with hmm.AddressSpace(device="emulated", check_reach=True) as space:
        yield space


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_touches_only_what_it_names(confined, name):
    outcome = WORKLOADS[name].run(confined, "tiny")
    assert outcome.verified, outcome.mismatch
