"""device="auto": a GPU that can be used, with a word; else an emulated device, which says why. On the stand-in for libcuda."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

import hmmemu as hmm
from hmmemu import choices, gpus, trackers
from hmmemu.cli.group import main
from hmmemu.space import _spaces

SOURCE = 'extern "C" __global__ void add(int* x, int value) { x[threadIdx.x] += value; }'


@pytest.fixture
def auto(stand_in, monkeypatch):
    """auto("gpus=2", ...): a space that nobody chose a device for."""
    monkeypatch.delenv("HMMEMU_DEVICE", raising=False)
    monkeypatch.setenv(
        "HMMEMU_TRACKER", trackers.best().name
    )  # so that nothing warns but the choice of a device
    monkeypatch.setattr(choices, "_told", set())

    def open_space(settings="", **options):
        stand_in(settings)
        return hmm.AddressSpace(timeout=60, **options)

    return open_space


def check(space):
    x = np.arange(100, dtype=np.int32)
    with space:
        hmm.RawKernel(SOURCE, "add")((1,), (100,), (x, np.int32(5)))
        assert np.array_equal(x, np.arange(5, 105))


def test_a_gpu_is_taken_and_named(auto):
    with pytest.warns(
        hmm.FallbackWarning, match=r"GPU 0, Fake GPU .*not yet run on a GPU.*HMMEMU_DEVICE=emulated"
    ):
        space = auto()
    assert space.devices[0].kind == "cuda" and "device='auto'" in space.devices[0].why
    check(space)


def test_told_once_and_not_to_who_asked(auto):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto(device="cuda").close()
    with pytest.warns(hmm.FallbackWarning):
        auto().close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto().close()


def test_where_warnings_are_errors_nothing_stays_open(auto):
    before = set(map(id, _spaces.open()))
    with warnings.catch_warnings(), pytest.raises(hmm.FallbackWarning) as told:
        warnings.simplefilter("error")
        auto()
    assert set(map(id, _spaces.open())) <= before, told  # which has the frame, and that the space


@pytest.mark.parametrize(("count", "kind"), [(2, "cuda"), (3, "emulated")])
def test_each_device_is_a_gpu_or_none_is(auto, count, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if kind == "cuda" else "error")
        space = auto("gpus=2", devices=count)
    assert [device.kind for device in space.devices] == [kind] * count
    if kind == "cuda":
        assert [device.gpu.index for device in space.devices] == [0, 1]
    else:
        assert "there is no GPU 2 here" in space.devices[0].why
    space.close()


@pytest.mark.parametrize(
    ("settings", "words"), [("novmm=1", "lacks virtual memory"), ("gpus=0", "no CUDA-capable device")]
)
def test_a_gpu_that_lacks_something_is_not_taken(auto, settings, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = auto(settings)
    assert space.devices[0].kind == "emulated" and words in space.devices[0].why
    check(space)


def test_without_cupy(auto, monkeypatch):
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "")
    with auto() as space:
        assert space.devices[0].kind == "emulated" and "CuPy is not installed" in space.devices[0].why


@pytest.mark.parametrize("cache", [b"libcuda.so\0libcuda.so.12\0", None])
def test_without_a_driver_nothing_is_started(auto, monkeypatch, tmp_path, cache):
    monkeypatch.delenv("HMMEMU_LIBCUDA")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "_LINKER_FOLDERS", ())
    monkeypatch.setattr(gpus, "_LINKER_CACHE", tmp_path / "cache")
    if cache is not None:
        (tmp_path / "cache").write_bytes(cache)
    monkeypatch.setattr(gpus.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with auto() as space:
        assert "NVIDIA's driver is not installed" in space.devices[0].why
    (tmp_path / "libcuda.so.1").touch()
    assert gpus.why_no_driver() == ""
    (tmp_path / "libcuda.so.1").unlink()
    (tmp_path / "cache").write_bytes(b"...\0libcuda.so.1\0...")
    assert gpus.why_no_driver() == ""


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ("fail=cuDevicePrimaryCtxRetain:2", {}, "make a context on GPU 0: .*out of memory"),
        ("", {"fallback": "cas-loop"}, "fallback='cas-loop' is for emulated devices"),
    ],
)
def test_an_emulated_device_takes_over(auto, settings, options, words):
    with pytest.warns(hmm.FallbackWarning, match=f"emulated device, as GPU 0, Fake .*{words}") as told:
        space = auto(settings, **options)
    assert len(told) == 1 and "does not do" in space.devices[0].why and space.link.name == "pcie4"
    check(space)


def test_who_asked_for_the_gpu_gets_the_error(auto):
    with pytest.raises(hmm.DeviceError, match="make a context on GPU 0"):
        auto("fail=cuDevicePrimaryCtxRetain:2", device="cuda")


def test_run_and_doctor_say_so(auto, stand_in, tmp_path):
    stand_in("delay_us=20")
    file = tmp_path / "run.json"
    done = CliRunner().invoke(main, ["run", "vector_add", "--size", "tiny", "--json", str(file)])
    assert done.exit_code == 0 and "GPU 0, Fake GPU" in done.output and "device='auto'" in done.output
    assert "Fake GPU" in json.loads(file.read_text())["devices"][0]
    done = CliRunner().invoke(main, ["doctor", "--json", str(file)])
    device = next(c for c in json.loads(file.read_text())["checks"] if c["name"] == "device")
    assert done.exit_code == 0 and "Fake GPU" in device["value"]
