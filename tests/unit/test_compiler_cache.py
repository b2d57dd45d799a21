"""The disk cache: what makes a new entry, several processes at once, damaged files, folders that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.compiler import build, compile_module
from hmmemu.errors import CompileError

CODE = "__global__ void f(int* x) { x[threadIdx.x] = %d; }"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HMMEMU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def count(monkeypatch):
    calls = []
    real = build._compile
    monkeypatch.setattr(build, "_compile", lambda *a: (calls.append(1), real(*a))[1])
    return calls


def test_the_same_source_compiles_once(folder, count):
    first, second = compile_module(CODE % 1), compile_module(CODE % 1)
    assert first == second and len(count) == 1
    assert first.path.is_relative_to(folder) and first.key in first.path.name
    assert [p.suffix for p in first.path.parent.iterdir()] == [".so"]


def test_everything_that_matters_makes_a_new_entry(folder, count, tmp_path, monkeypatch):
    keys = {compile_module(CODE % 1).key}
    keys.add(compile_module(CODE % 2).key)
    keys.add(compile_module(CODE % 1, options=("-DX=1",)).key)
    keys.add(compile_module(CODE % 1, options=("-fmad=false",)).key)
    keys.add(compile_module(CODE % 1, filename="other.cu").key)
    keys.add(compile_module(CODE % 1, name_expressions=["f"]).key)
    header = tmp_path / "h.h"
    for value in (1, 2):
        header.write_text(f"#define VALUE {value}\n")
        keys.add(
            compile_module(
                '#include "h.h"\n__global__ void f(int* x) { x[0] = VALUE; }', options=("-I" + str(tmp_path),)
            ).key
        )
    monkeypatch.setattr("hmmemu.compiler.cache._processor", lambda: "another processor")
    keys.add(compile_module(CODE % 1).key)
    assert len(keys) == len(count) == 9


def test_a_folder_from_which_no_code_can_be_loaded(folder, monkeypatch):
    """A `noexec` mount: what is compiled goes where it can be loaded."""
    real = os.statvfs

    def statvfs(path):
        fields = list(real(path))
        fields[8] |= os.ST_NOEXEC * Path(path).is_relative_to(folder)
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert not compile_module(CODE % 9).path.is_relative_to(folder)


def test_damaged_files_are_made_again(folder, count):
    path = compile_module(CODE % 3).path
    path.write_bytes(b"")
    assert compile_module(CODE % 3).path.stat().st_size > 1000 and len(count) == 2


def test_failed_compilations_leave_nothing(folder):
    with pytest.raises(Exception, match="error"):
        compile_module("__global__ void f() { nonsense }")
    assert list((folder / "kernels").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("HMMEMU_CACHE_DIR", str(blocked))
    assert compile_module(CODE % 4).path.exists()


def test_nowhere_code_can_be_loaded_from(folder, tmp_path, monkeypatch):
    real = os.statvfs

    def statvfs(path):
        fields = list(real(path))
        fields[8] |= os.ST_NOEXEC
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(CompileError, match="HMMEMU_CACHE_DIR"):
        compile_module(CODE % 10)


def test_a_folder_made_instead_ends_with_the_process(tmp_path):
    """Not with a fork child that ends first; and one that lives on makes another."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    program = f"""
import os, sys, time
from hmmemu.compiler import compile_module
path = compile_module({CODE % 4!r}).path
if os.fork() == 0:
    sys.exit()
os.wait()
print(path, path.exists(), flush=True)
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        time.sleep(0.01)
    while path.exists():
        time.sleep(0.01)
    print(compile_module({CODE % 5!r}).path, path.exists())
"""
    environment = {**os.environ, "HMMEMU_CACHE_DIR": str(blocked)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    )
    (path, existed), (other, existed_later) = (line.split() for line in done.stdout.splitlines())
    assert (existed, existed_later) == ("True", "False")
    assert not Path(path).parent.exists() and not Path(other).parent.exists()


def test_an_emptied_cache(folder):
    """The modules that a device has, it keeps; what a new process needs is compiled again."""
    add = hmm.RawKernel('extern "C" __global__ void add(int* x) { x[threadIdx.x] += 1; }', "add")
    with hmm.AddressSpace(device="emulated") as space:
        x = space.zeros(64, np.int32)
        add(1, 64, (x,))
        shutil.rmtree(folder)
        add(1, 64, (x,))
        space.devices[0].process.kill()
        with pytest.raises(hmm.DeviceError):
            add(1, 64, (x,))
        add(1, 64, (x,))
        assert list(x) == [3] * 64


PROGRAM = """
import sys
from hmmemu.compiler import build, compile_module
real = build._compile
def noisy(*a):
    print("compiled", flush=True)
    return real(*a)
build._compile = noisy
sys.stdin.readline()
print(compile_module(%r).path)
"""


def test_several_processes_compile_once(folder):
    root = Path(build.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", PROGRAM % (CODE % 5)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    lines = [child.communicate(timeout=100)[0].split() for child in children]
    assert all(child.returncode == 0 for child in children)
    assert sum(line.count("compiled") for line in lines) == 1
    assert len({line[-1] for line in lines}) == 1
    assert [p.suffix for p in (folder / "kernels").iterdir()] == [".so"]
