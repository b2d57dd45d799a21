"""`hmmemu run` on the stand-in: workloads whose kernels need nobody while they run, on a GPU and on both kinds of device."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hmmemu.cli.group import main

WORKLOADS = ["vector_add", "histogram", "bfs", "kmeans", "jacobi", "tree_walk"]


@pytest.mark.parametrize("device", ["cuda", "cuda:0,emulated"])
def test_run_verifies(stand_in, device, tmp_path):
    stand_in("delay_us=20")
    file = tmp_path / "run.json"
    done = CliRunner().invoke(
        main, ["run", *WORKLOADS, "--size", "tiny", "--device", device, "--json", str(file)]
    )
    assert done.exit_code == 0, done.output
    assert 'GPU 0, Fake GPU "0"' in done.output
    found = json.loads(file.read_text())
    assert found["verified"] and [w["name"] for w in found["workloads"]] == WORKLOADS
    assert len(found["devices"]) == 1 + ("emulated" in device)
