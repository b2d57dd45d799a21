"""`hmmemu run`, for real: each workload verified, the report, JSON, and what happens when it goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import COMMAND, LIMIT, environment, hmmemu
from waiting import is_gone, wait_until

from hmmemu.cli import main
from hmmemu.kernels import WORKLOADS
from hmmemu.kernels.workload import Workload

pytestmark = pytest.mark.timeout(LIMIT + 20)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All workloads at their smallest size: the finished process and the JSON document."""
    path = tmp_path_factory.mktemp("run") / "out.json"
    done = hmmemu("run", "--size", "tiny", "--json", path)
    return done, json.loads(path.read_text())


def test_every_workload_is_verified(everything):
    done, document = everything
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ verified") == len(WORKLOADS)
    assert document["verified"] is True
    assert [row["name"] for row in document["workloads"]] == list(WORKLOADS)


def test_says_what_the_device_is(everything):
    done, document = everything
    assert "mulated" in done.stdout.split("\n")[0]
    assert document["devices"] == [done.stdout.split("\n")[0]]


def test_prints_the_unified_memory_table(everything):
    done, document = everything
    lines = done.stdout.rstrip().split("\n")
    assert "Unified Memory profiling result:" in lines
    assert any(line.endswith("  Host To Device") for line in lines)
    assert any(line.endswith("  Device To Host") for line in lines)
    assert lines[-1].startswith("Total CPU Page faults: ")
    assert document["stats"]["transfers"]


def test_counts_pages_and_faults_of_each_workload(everything):
    pages = {row["name"]: row["memory"] for row in everything[1]["workloads"]}
    for name, counts in pages.items():
        in_place = (
            "_system(" in WORKLOADS[name].source
        )  # what the CPU shares with a running kernel may stay home
        assert counts["pages_to_device"] > 0 and (in_place or counts["pages_to_host"] > 0), name
        assert all(count >= 0 for count in counts.values())
    sweeps = WORKLOADS["jacobi"].sizes["tiny"]["sweeps"]
    grid = WORKLOADS["jacobi"].sizes["tiny"]["n"] ** 2 * 8 // 4096
    assert pages["jacobi"]["pages_to_host"] >= (sweeps // 2) * grid


def test_without_arguments_everything_runs_at_small_size():
    done = hmmemu("run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓ verified") == len(WORKLOADS)


def test_only_the_named_ones_run_once_each(tmp_path):
    done = hmmemu("run", "spmv", "vector_add", "spmv", "--size", "tiny", "--json", "-")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert [row["name"] for row in document["workloads"]] == ["spmv", "vector_add"]
    assert "✓ verified" in done.stderr


def test_repeat():
    done = hmmemu("run", "reduction", "--size", "tiny", "--repeat", "3", "--seed", "7", "--json", "-")
    (row,) = json.loads(done.stdout)["workloads"]
    assert [run["verified"] for run in row["runs"]] == [True] * 3


def test_two_devices():
    done = hmmemu("run", "jacobi", "vector_add", "--devices", "2", "--size", "tiny", "--json", "-")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["devices"]) == 2
    assert 'Device "emulated device 1"' in done.stderr


def test_image_from_a_file(tmp_path):
    image = np.random.default_rng(0).integers(48, 6283, (1024, 1536)).astype(">u2")
    image.tofile(tmp_path / "photo.iml")
    done = hmmemu("run", "histogram", "sobel", "--input", tmp_path / "photo.iml", "--json", "-")
    assert done.returncode == 0, done.stderr
    for row in json.loads(done.stdout)["workloads"]:
        assert row["runs"][0]["parameters"] == {"height": 1024, "width": 1536}


def test_image_of_the_wrong_size_is_bad_usage(tmp_path):
    (tmp_path / "photo.iml").write_bytes(b"x" * 100)
    done = hmmemu("run", "sobel", "--input", tmp_path / "photo.iml")
    assert done.returncode == 2
    assert "photo.iml: 100 bytes, but a raw image has 3145728" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_image_that_no_workload_reads_is_bad_usage(tmp_path):
    np.save(tmp_path / "photo.npy", np.zeros((9, 9), np.uint16))
    done = hmmemu("run", "spmv", "--input", tmp_path / "photo.npy")
    assert done.returncode == 2 and "only these workloads read it: histogram, sobel" in done.stderr


def test_the_fraction_goes_to_workloads_that_have_one():
    done = hmmemu("run", "compaction", "matmul", "--fraction", "0.75", "--size", "tiny", "--json", "-")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["workloads"]
    assert [row["runs"][0]["parameters"].get("fraction") for row in rows] == [0.75, None]


def test_a_fraction_that_no_workload_has_is_bad_usage():
    done = hmmemu("run", "spmv", "--fraction", "0.5")
    assert done.returncode == 2 and "only these workloads have one: shared_histogram, " in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nosuch"], "'nosuch' is not one of 'vector_add', 'reduction'"),
        (["--size", "huge"], "'huge' is not one of"),
        (["--repeat", "0"], "0 is not in the range"),
        (["--devices", "0"], "0 is not in the range"),
        (["--device", "gpu"], "auto, emulated, cuda or cuda:N"),
        (["--device", "auto,cuda"], "several with commas, without auto"),
        (["--fraction", "1.5"], "1.5 is not in the range"),
        (["--input", "/nosuch.npy"], "File '/nosuch.npy' does not exist"),
        (["--json", "/nosuch/out.json"], "the directory /nosuch does not exist"),
        (["--json", "/"], "/ is a directory"),
        (["--tracker", "nosuch"], "'nosuch' is not one of"),
        (["--nosuch"], "No such option"),
    ],
)
def test_bad_usage(args, words):
    result = CliRunner().invoke(main, ["run", *args])
    assert result.exit_code == 2
    assert words in result.output


def test_list():
    result = CliRunner().invoke(main, ["run", "--list"])
    assert result.exit_code == 0
    for workload in WORKLOADS.values():
        assert workload.name in result.output and workload.pattern[:30] in result.output


def test_wrong_result_gives_status_1(monkeypatch):
    source = WORKLOADS["vector_add"].source
    monkeypatch.setattr(Workload, "source", source.replace("a[i] + b[i]", "a[i]"))
    result = CliRunner().invoke(main, ["run", "vector_add", "--size", "tiny", "--device", "emulated"])
    assert result.exit_code == 1
    assert "✗ wrong" in result.output and "expected" in result.output


@pytest.mark.parametrize("names", [["vector_add", "reduction"], ["reduction", "vector_add"]])
def test_a_kernel_that_faults_does_not_end_the_others(monkeypatch, names):
    source = WORKLOADS["vector_add"].source.replace("c[i] = ", "*(float*)(16 + 0 * i) = ")
    monkeypatch.setattr(type(WORKLOADS["vector_add"]), "source", source, raising=False)
    args = ["run", *names, "--size", "tiny", "--device", "emulated", "--json", "-"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1
    rows = {row["name"]: row for row in json.loads(result.stdout)["workloads"]}
    bad, good = rows["vector_add"], rows["reduction"]
    assert "vector_add" in bad["error"] and "0x10" in bad["error"] and bad["runs"] == []
    assert good["verified"] is True
    assert "✗ failed" in result.stderr and "✓ verified" in result.stderr


def test_without_a_compiler(tmp_path):
    done = hmmemu("run", "vector_add", "--size", "tiny", PATH=str(tmp_path), HMMEMU_CACHE_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "compiler" in done.stdout and "Traceback" not in done.stderr


def test_error_is_one_line_unless_a_traceback_is_wanted():
    quiet = hmmemu("run", "vector_add", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert quiet.returncode == 1
    assert quiet.stderr.startswith("hmmemu: error: ") and "cuda" in quiet.stderr.lower()
    assert len(quiet.stderr.strip().split("\n")) == 1
    loud = hmmemu("run", "--device", "cuda", CUDA_VISIBLE_DEVICES="", HMMEMU_TRACEBACK="1")
    assert loud.returncode == 1 and "Traceback" in loud.stderr


def devices_of(pid):
    """The device processes that a process has now; it may be a compiler's parent, too."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "hmmemu-device\n"]


def test_interrupt_ends_cleanly():
    command = [*COMMAND, "run", "bfs", "--size", "tiny", "--repeat", "1000000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert "mulated" in process.stdout.readline()
    time.sleep(1.0)
    devices = devices_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "hmmemu: interrupted"
    assert devices
    for device in devices:
        wait_until(lambda device=device: is_gone(device), "the device process outlived its parent")


def test_reader_that_goes_away():
    command = [*COMMAND, "run", "vector_add", "--size", "tiny"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment()) as process:
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in errors


def test_the_atomics_report(tmp_path):
    path = tmp_path / "out.json"
    done = hmmemu(
        "run", "histogram", "kmeans", "--size", "tiny", "--atomics-report", "--link", "pcie3", "--json", path
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())["atomics"]
    pixels = json.loads(path.read_text())["workloads"][0]["runs"][0]["parameters"]
    assert document["link"] == "pcie3" and document["lost"] == 0
    (local,) = [
        u for u in document["uses"] if u["kernel"] == "histogram" and u["array"] == "local (__shared__)"
    ]
    assert local["ways"] == {"local": local["count"]} and local["count"] > 0, pixels
    table = [line.split() for line in done.stdout.split("\n")]
    count = f"{local['count']:,}"
    assert ["atomicAdd", "unsigned", "int", "device", "local", "(__shared__)", count, "local", count] == next(
        row[2:11] for row in table if row[:1] == ["histogram"] and "(__shared__)" in row
    )
    kmeans = [use for use in document["uses"] if use["kernel"].startswith("assign") or use["array"] == "sums"]
    assert kmeans and all(
        use["links"]["nvlink"]["route"] == "device" for use in kmeans if use["array"] == "sums"
    )


def test_a_link_and_a_fallback_of_a_run(tmp_path):
    done = hmmemu("run", "histogram", "--size", "tiny", "--link", "agp")
    assert done.returncode == 2 and "there is no link 'agp'" in done.stderr
    done = hmmemu(
        "run", "shared_histogram", "--size", "tiny", "--link", "pcie3-noatomics", "--fallback", "fault"
    )
    assert done.returncode == 1 and "atomic access violation" in done.stdout
