"""The probes of what hmmemu assumes of NVIDIA's driver, on the stand-in: that they work, end, and tell what is otherwise."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hmmemu import gpu_probes, gpus
from hmmemu.cli.group import main


@pytest.fixture
def probe(stand_in):
    """probe("settings"): what was found, by name."""

    def run(settings=""):
        stand_in(settings)
        return {f.name: f for f in gpu_probes.run_probes(gpus.find_gpus()[0])}

    return run


def test_a_driver_as_it_is_assumed(probe):
    found = probe("delay_us=20")
    assert list(found) == list(gpu_probes.PROBES)
    wrong = [f for f in found.values() if not f.ok]
    assert not wrong
    assert "32 of 32 blocks where mmap maps" in found["addresses"].found
    assert "16 of 16 blocks, 16 of 16 free again" in found["arena"].found
    assert "right when it was killed, right while it lives" in found["export"].found
    assert found["failure"].figures == {"result": 700, "afterwards": 700, "word": 1}
    assert "a word behind it is not written" in found["failure"].found
    assert found["register"].found.startswith(
        "registered, at its own address: memfd yes; private memory yes;"
    )
    costs = {name for f in found.values() for name in f.figures if name.endswith("_ns")}
    assert costs >= {"create_ns", "export_ns", "register_ns", "launch_ns"}


def test_a_driver_that_is_otherwise(probe):
    found = probe("delay_us=20,elsewhere=1,otherwise=1,unshared=1")
    assert not found["addresses"].ok and "0 of 32 blocks" in found["addresses"].found
    assert not found["arena"].ok and "others were given" in found["arena"].found
    assert not found["register"].ok and "memfd at another address" in found["register"].found
    assert not found["export"].ok and "cannot pass its memory on" in found["export"].found
    assert not found["memory"].ok and "allocate 2 MiB: cuMemCreate" in found["memory"].found


def test_a_driver_without_writes_of_streams(probe):
    found = probe("delay_us=20,nowrites=1")["failure"]
    assert found.ok and "no word can be written" in found.found


def test_one_that_hangs_or_crashes_hides_no_other(probe, monkeypatch, tmp_path):
    program = tmp_path / "hmmemu-cuda"
    program.write_text(
        f'#!/bin/sh\ncase "$2" in memory) sleep 60;; export) kill -SEGV $$;; esac\nexec {gpus.PROGRAM} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(gpu_probes, "PROGRAM", program)
    run = gpu_probes._run
    monkeypatch.setattr(
        gpu_probes,
        "_run",
        lambda name, command, limit: run(name, command, 3.0 if name == "memory" else limit),
    )
    found = probe("delay_us=20")
    assert found["memory"].found == "did not end within 3 s" and "SIGSEGV" in found["export"].found
    assert {f.name for f in found.values() if not f.ok} == {"memory", "export"}


def test_doctor_shows_them(stand_in, tmp_path):
    stand_in("delay_us=20")
    done = CliRunner().invoke(main, ["doctor", "--gpu", "--json", str(tmp_path / "found.json")])
    assert done.exit_code == 0 and "What hmmemu assumes of the GPU's driver" in done.output
    checks = json.loads((tmp_path / "found.json").read_text())["checks"]
    shown = [c for c in checks if c["name"].startswith("GPU 0, ") and c["name"] != "GPU 0, link"]
    assert [c["name"].removeprefix("GPU 0, ") for c in shown] == list(gpu_probes.PROBES)
    assert all(c["ok"] for c in shown) and any("create " in c["value"] and " µs" in c["value"] for c in shown)


def test_doctor_without_a_gpu(stand_in):
    stand_in("gpus=0")
    done = CliRunner().invoke(main, ["doctor", "--gpu"])
    assert done.exit_code == 0 and "not tried: " in done.output
