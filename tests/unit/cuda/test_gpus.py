"""Which GPUs there are, and why there is none: against the stand-in for libcuda, and against what this machine has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fakecuda
import pytest

import hmmemu as hmm
from hmmemu import choices, gpus

HERE = Path(__file__).parent


@pytest.fixture
def cuda(monkeypatch):
    """Sets the machine up: cuda("gpus=2,novmm=1"). CuPy counts as installed."""
    monkeypatch.setenv("HMMEMU_LIBCUDA", str(fakecuda.library()))
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "cupy-cuda12x 14.2.0")
    return lambda settings="": monkeypatch.setenv("FAKE_CUDA", settings)


def test_each_gpu_is_described(cuda):
    cuda("gpus=2,bytes=85899345920,version=13000,mode=3")
    first, second = gpus.find_gpus()
    assert (first.index, second.index) == (0, 1)
    assert first.name == 'Fake GPU "0"' and first.bytes == 80 << 30 and first.capability == (9, 0)
    assert first.driver == 13000 and first.compute_mode == 3 and first.shared_bytes == 232448
    assert first.virtual_memory and first.file_descriptors and not first.host_atomics and not first.lacks
    assert str(second) == 'GPU 1, Fake GPU "1", 80.0 GiB, compute capability 9.0'


@pytest.mark.parametrize(("word", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)])
def test_the_word_for_a_gpu(word, index):
    assert gpus.parse_index(word) == index


@pytest.mark.parametrize(
    "word", ["cuda:", "cuda:-1", "cuda:x", "cuda0", "cudaa", "cuda:1:2", "cuda: 1", "cuda:²"]
)
def test_no_word_for_a_gpu(word, cuda):
    cuda()
    with pytest.raises(hmm.ArgumentError, match="'cuda' \\(the first\\) or 'cuda:N'"):
        hmm.AddressSpace(device=word)


def test_the_gpu_that_is_named(cuda):
    cuda("gpus=3")
    assert gpus.choose_gpu("cuda:2").index == 2
    with pytest.raises(hmm.UnsupportedError, match=r"no GPU 3 here, but GPU 0, .*; GPU 1, .*; GPU 2, "):
        gpus.choose_gpu("cuda:3")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("novmm=1", r"GPU 0, Fake GPU .* lacks virtual memory management \(cuMemMap"),
        ("mode=2", r"lacks a compute mode that allows programs .*compute-mode=DEFAULT"),
        ("gpus=0", r"no CUDA-capable device is detected \(CUDA_ERROR_NO_DEVICE\); no GPU is visible"),
        ("fail=cuInit:803", r"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH\); .* different versions: reboot"),
        ("fail=cuInit:4711", r"CUDA cannot be used: .* \(4711\)$"),
        ("fail=cuDriverGetVersion:1", "ask for the driver's version: cuDriverGetVersion: invalid argument"),
        ("fail=cuDeviceGetCount:1", "count the GPUs: cuDeviceGetCount: invalid argument"),
        ("fail=cuDeviceGet:1", "open GPU 0: cuDeviceGet: invalid"),
        ("gpus=2,fail=cuDeviceGetName:1:2", "ask for the name of GPU 1: cuDeviceGetName"),
        ("fail=cuDeviceTotalMem_v2:1", "ask for the memory of GPU 0"),
        ("fail=cuDeviceGetAttribute:1", "ask GPU 0 for attribute 75: cuDeviceGetAttribute"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why(cuda, settings, words):
    cuda(settings)
    with pytest.raises(hmm.UnsupportedError, match=words):
        gpus.choose_gpu("cuda")


def test_no_driver(monkeypatch):
    monkeypatch.setenv("HMMEMU_LIBCUDA", "/nowhere/libcuda.so.1")
    with pytest.raises(
        hmm.UnsupportedError, match=r"/nowhere/libcuda.so.1 cannot be loaded: .*driver is not installed"
    ):
        hmm.AddressSpace(device="cuda")


def test_a_driver_that_is_too_old(monkeypatch, tmp_path):
    (tmp_path / "old.cpp").write_text('extern "C" int cuInit(unsigned) { return 0; }\n')
    old = fakecuda.build([tmp_path / "old.cpp"], "old-libcuda")
    monkeypatch.setenv("HMMEMU_LIBCUDA", str(old))
    with pytest.raises(
        hmm.UnsupportedError, match=r"has no cuGetErrorName: hmmemu needs a driver of CUDA 11.2"
    ):
        gpus.find_gpus()


@pytest.mark.parametrize(("version", "extra"), [(12040, "cuda12"), (13000, "cuda13")])
def test_without_cupy_the_extra_is_named(cuda, monkeypatch, version, extra):
    cuda(f"version={version}")
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "")
    with pytest.raises(
        hmm.UnsupportedError, match=rf"CuPy is not installed: pip install 'hmmemu\[{extra}\]'"
    ):
        hmm.AddressSpace(device="cuda:0")


def test_a_program_that_is_missing_or_hangs(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "PROGRAM", tmp_path / "hmmemu-cuda")
    with pytest.raises(hmm.UnsupportedError, match=r"cannot run .*reinstall hmmemu"):
        gpus.find_gpus()
    for script, limit, words in (
        ("sleep 20", 1.0, "did not answer within 1 s"),
        ("exit 3", 60.0, "status 3 and without a word"),
    ):
        (tmp_path / "hmmemu-cuda").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "hmmemu-cuda").chmod(0o755)
        monkeypatch.setattr(gpus, "_LIMIT", limit)
        with pytest.raises(hmm.UnsupportedError, match=words):
            gpus.find_gpus()


def test_the_driver_is_asked_once(cuda, monkeypatch, tmp_path):
    """It may take a second to start. In another environment there may be other GPUs."""
    program, asked = tmp_path / "hmmemu-cuda", tmp_path / "asked"
    program.write_text(f'#!/bin/sh\necho >> "{asked}"\nexec "{gpus.PROGRAM}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(gpus, "PROGRAM", program)
    cuda("gpus=2")
    for _ in range(3):
        assert len(gpus.find_gpus()) == 2 and gpus.choose_gpu("cuda:1").index == 1
    assert len(asked.read_text()) == 1
    cuda("gpus=1")
    assert len(gpus.find_gpus()) == 1
    assert len(asked.read_text()) == 2


def test_the_gpu_and_why(cuda, monkeypatch):
    cuda("gpus=2")
    gpu, why, _ = choices.choose_device("cuda:1")
    assert gpu.index == 1 and why == "asked for"
    monkeypatch.setenv("HMMEMU_DEVICE", "cuda")
    gpu, why, _ = choices.choose_device("auto")
    assert gpu.index == 0 and why == "HMMEMU_DEVICE=cuda"


def test_the_environment_names_the_device(cuda, monkeypatch):
    cuda("gpus=1")
    monkeypatch.setenv("HMMEMU_DEVICE", "cuda:1")
    with pytest.raises(hmm.UnsupportedError, match="no GPU 1 here"):
        hmm.AddressSpace()


def test_doctor_lists_them(cuda, monkeypatch):
    from hmmemu.cli import checks

    cuda("gpus=2,novmm=1,version=12090")
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "")
    driver, first, link, second, _, cupy = checks._gpu()
    assert link.name == "GPU 0, link" and link.ok and "(IntegerAdd, Exchange, CAS)" in link.value
    assert driver.ok and driver.value == "supports CUDA 12.9"
    assert not first.ok and "it lacks virtual memory management" in first.value and second.name == "GPU 1"
    assert cupy.advice == "pip install 'hmmemu[cuda12]'" and not any(c.needed for c in (driver, first, cupy))
    cuda("gpus=0")
    driver, cupy = checks._gpu()
    assert not driver.ok and "no GPU is visible" in driver.value and not cupy.advice


@pytest.mark.parametrize(
    ("body", "ok", "words"),
    [
        ("def getVersion(): return 12, 9", True, "12.9 compiles kernels"),
        (
            "def getVersion(): raise RuntimeError('no libnvrtc.so.13')",
            False,
            "RuntimeError: no libnvrtc.so.13",
        ),
    ],
)
def test_doctor_asks_for_nvrtc(cuda, monkeypatch, tmp_path, body, ok, words):
    from hmmemu.cli import checks

    (tmp_path / "cupy/cuda").mkdir(parents=True)
    (tmp_path / "cupy/__init__.py").touch()
    (tmp_path / "cupy/cuda/__init__.py").touch()
    (tmp_path / "cupy/cuda/nvrtc.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cuda("version=13000")
    found = checks._gpu()[-1]
    assert (found.name, found.ok, found.value) == ("NVRTC", ok, words)
    assert ok or "pip install nvidia-cuda-nvrtc, or" in found.advice


def test_declarations_are_those_of_cuda(tmp_path):
    """What libcuda.h declares of itself, compared with a cuda.h that this machine happens to have."""
    folders = [Path("/usr/local/cuda/include"), *sorted(Path("/usr/local").glob("cuda-*/include"))]
    found = next((folder for folder in folders if (folder / "cuda.h").exists()), None)
    if found is None:
        pytest.skip("no CUDA toolkit is installed: there is no cuda.h to compare with")
    root = HERE.parents[2]
    command = ["c++", "-std=c++20", "-fsyntax-only", "-w", f"-I{root / 'hmmemu/native'}", f"-I{found}"]
    done = subprocess.run([*command, HERE / "declarations.cpp"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
