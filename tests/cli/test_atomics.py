"""`hmmemu atomics`, for real: the tables of links and of kernels, JSON, exit status, bad usage."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import hmmemu

import hmmemu as hmm
from hmmemu.cli import main

KERNEL = """
#ifdef SHAPES
#include "shapes.h"
#endif
__global__ void lowest(int* depth, float* sum, int* flags, int i) {
  __shared__ int local;
  atomicMin_system(&depth[i], 3);
  atomicAdd(sum, 1.0f);
  atomicOr(&local, 1);
  int* p = i ? flags : depth;
  atomicExch(p, WORD);
}
"""
PROFILES = [link.name for link in hmm.links()]


def run(*args: object):
    return CliRunner().invoke(main, ["atomics", *map(str, args)])


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "lowest.cu"
    path.write_text(KERNEL)
    return path


def rows(output: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in output.split("\n")]


# -- links ------------------------------------------------------------------------------------------------------------


def test_all_links():
    done = hmmemu("atomics")
    assert (done.returncode, done.stderr) == (0, "")
    table = rows(done.stdout)
    assert [row[0] for row in table[1 : 1 + len(PROFILES)]] == PROFILES
    assert ["pcie4", "31.51", "GB/s", "790.00ns", "20.000us"] in table
    assert ["IntegerMin", "–", "–", "32,", "64"] in table
    assert ["CAS", "–", "32,", "64,", "128", "16,", "32,", "64,", "128"] in table
    assert sum(row[:1] == [operation.cuda_name] for row in table for operation in hmm.AtomicOperation) == 13


@pytest.mark.parametrize("fallback", list(hmm.Fallback))
def test_one_link(fallback):
    result = run("--link", "pcie4", "--fallback", fallback.value)
    assert result.exit_code == 0
    table = rows(result.output)
    assert ["operation", "16", "32", "64", "128", "32x4"] in table
    assert ["IntegerAdd", "native", "native"] in table
    assert ["CAS", fallback.value, "native", "native", "native"] in table
    assert ["FloatAdd", *[fallback.value] * 4] in table
    assert f"{fallback.value}: {fallback.words}." in result.output


def test_a_link_from_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text("base = 'pcie3'\n[atomics]\nIntegerMin = ['Unsigned', 'Scalar32']\n")
    table = rows(run("--link", tmp_path / "mine.toml").output)
    assert ["IntegerMin", "native", "(unsigned)", "migrate"] in table
    both = rows(run("--link", tmp_path / "mine.toml", "--link", "nvlink").output)
    assert ["IntegerMin", "32", "unsigned", "32,", "64"] in both


def test_json_of_links():
    document = json.loads(run("--json", "-", "--link", "pcie3", "--link", "cxl").stdout)
    assert document["command"] == "atomics" and document["targets"] == []
    assert document["links"] == [link.to_dict() for link in hmm.links() if link.name in ("pcie3", "cxl")]


# -- kernels ----------------------------------------------------------------------------------------------------------


def test_workloads():
    done = hmmemu("atomics", "histogram", "vector_add")
    assert done.returncode == 0
    table = rows(done.stdout)
    assert [
        "histogram",
        "16",
        "atomicAdd",
        "unsigned",
        "int",
        "device",
        "counts",
        "device",
        "device",
        "device",
    ] in table
    assert "vector_add.cu\n  no atomic operations" in done.stdout


def test_a_file(source):
    result = run(source, "--link", "pcie3", "-D", "WORD=1")
    assert result.exit_code == 0
    table = rows(result.output)
    assert ["lowest", "7", "atomicMin_system", "int", "system", "depth", "migrate"] in table
    assert ["lowest", "8", "atomicAdd", "float", "device", "sum", "device"] in table
    assert ["lowest", "9", "atomicOr", "int", "device", "local", "(__shared__)", "local"] in table
    assert ["lowest", "11", "atomicExch", "int", "device", "depth,", "flags", "(?)", "device"] in table
    assert "2 of 4 operations are on memory that the CPU shares, and not of system scope" in result.output


def test_macros_and_headers_of_a_file(source, tmp_path):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "shapes.h").write_text("#define atomicOr atomicXor\n")
    result = run(source, "-D", "SHAPES", "-D", "WORD=1", "-I", tmp_path / "include")
    assert "atomicXor" in result.output and "atomicOr" not in result.output


def test_json_of_a_file(source):
    document = json.loads(
        run(source, "bfs", "--link", "pcie3", "--fallback", "cas-loop", "--json", "-").stdout
    )
    mine, bfs = document["targets"]
    assert (mine["name"], bfs["name"]) == (str(source), "bfs")
    first = mine["sites"][0]
    assert (first["operation"], first["bytes"], first["line"], first["arrays"]) == (
        "IntegerMin",
        4,
        7,
        ["depth"],
    )
    assert first["routes"]["pcie3"] == {"route": "cas-loop", "verdict": "emulated"}
    assert len(bfs["sites"]) == 2 and document["fallback"] == "cas-loop"


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--link", "pcie3", "--fallback", "silent"], 1),
        (["--link", "pcie3", "--fallback", "fault"], 1),
        (["--link", "pcie3-noatomics", "--fallback", "cas-loop"], 1),
        (["--link", "pcie3", "--fallback", "cas-loop"], 0),
        (["--link", "nvlink", "--fallback", "fault"], 0),
        (["--link", "nvlink", "--link", "pcie3", "--fallback", "fault"], 1),
        (["--fallback", "fault"], 0),  # no link was asked for
    ],
)
def test_exit_status_tells_whether_something_would_break(source, args, status):
    assert run(source, *args).exit_code == status


def test_without_a_compiler(source, tmp_path):
    done = hmmemu("atomics", source, "--link", "nvlink", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "") and "atomicMin_system" in done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nosuch"], "'nosuch' is neither a file nor a workload: vector_add"),
        (["--link", "agp"], "there is no link 'agp'; use one of pcie3-noatomics"),
        (["--link", "/nosuch.toml"], "link file /nosuch.toml cannot be read"),
        (["--fallback", "hope"], "'hope' is not one of"),
        (["--json", "/nosuch/out.json"], "the directory /nosuch does not exist"),
    ],
)
def test_bad_usage(args, words):
    result = run(*args)
    assert result.exit_code == 2
    assert words in " ".join(result.output.replace("│", " ").split())


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "k.cu").write_bytes(b"\xff\xfe\x00")
    result = run(tmp_path / "k.cu")
    assert result.exit_code == 2 and "cannot be read" in result.output


def test_an_error_in_the_source(tmp_path):
    (tmp_path / "k.cu").write_text("#error too old\n")
    done = hmmemu("atomics", tmp_path / "k.cu")
    assert done.returncode == 1
    assert done.stderr == f"hmmemu: error: {tmp_path / 'k.cu'}:1: #error too old\n"


DOCS = Path(__file__).parents[2] / "docs" / "atomics.md"
BLOCKS = re.findall(r"^```(\S*)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "text", [text for kind, text in BLOCKS if text.startswith("$ ")], ids=lambda text: text.split("\n")[0]
)
def test_the_output_in_the_documentation_is_real(text, tmp_path, monkeypatch):
    (source,) = (text for kind, text in BLOCKS if kind == "c++")
    (tmp_path / "depth.cu").write_text(source)
    monkeypatch.chdir(tmp_path)
    command, _, expected = text.partition("\n")
    done = hmmemu(*command.removesuffix("; echo $?").split()[2:])
    shown = done.stdout + (f"{done.returncode}\n" if "$?" in command else "")
    assert [line.rstrip() for line in shown.strip().split("\n")] == expected.strip().split("\n")


def test_the_python_in_the_documentation_is_real(tmp_path, monkeypatch, capsys):
    (source,) = (text for kind, text in BLOCKS if kind == "c++")
    (link,) = (text for kind, text in BLOCKS if kind == "toml")
    (tmp_path / "mine.toml").write_text(link)
    monkeypatch.chdir(tmp_path)
    programs = [text for kind, text in BLOCKS if kind == "python"]
    names = {"hmm": hmm, "source": source}
    exec(programs[0], names)
    output = next(text for (kind, _), (_, text) in itertools.pairwise(BLOCKS) if kind == "python")
    assert capsys.readouterr().out == output
    exec(next(text for text in programs if "hmm.Link(" in text), names)
    assert names["link"].native(hmm.AtomicOperation.CAS, 64)
    assert names["kernel"].atomics(link="mine.toml")[0].link == "my-machine"
