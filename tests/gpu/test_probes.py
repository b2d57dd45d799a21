"""What hmmemu assumes of NVIDIA's driver is so. `hmmemu doctor --gpu` shows the same with its figures."""

from __future__ import annotations

import pytest

from hmmemu.gpu_probes import PROBES, run_probes


@pytest.fixture(scope="module")
def findings(gpu):
    return {finding.name: finding for finding in run_probes(gpu, limit=10.0)}


@pytest.mark.parametrize("name", PROBES)
def test_as_assumed(findings, name):
    assert findings[name].ok, findings[name].found
