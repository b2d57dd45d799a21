"""The pytest plugin, run by a pytest of its own in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from hmmemu import pytest_plugin

pytest_plugins = ["pytester"]

HEAVY = ("numpy", "cupy", "rich", "hmmemu._native", "hmmemu.space", "tree_sitter")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in ("HMMEMU_DEVICE", "HMMEMU_TRACKER", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


def run(pytester, *args):
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", *args)


def test_a_fresh_space_for_each_test(pytester):
    pytester.makepyfile(
        """
        import numpy as np
        import pytest
        import hmmemu as hmm

        SOURCE = 'extern "C" __global__ void twice(int* x) { x[threadIdx.x] *= 2; }'
        earlier = []

        def test_space_is_the_current_one(hmm_space):
            assert hmm.current_space() is hmm_space
            x = np.arange(32, dtype=np.int32)
            hmm.RawKernel(SOURCE, "twice")((1,), (32,), (x,))
            assert x.tolist() == list(range(0, 64, 2))
            earlier.append(hmm_space)

        def test_the_earlier_one_is_closed(hmm_space):
            assert hmm_space is not earlier[0]
            with pytest.raises(hmm.SpaceClosedError):
                earlier[0].empty(3)
        """
    )
    run(pytester, "--hmm-device=emulated").assert_outcomes(passed=2)


def test_failing_test_shows_what_happened_to_the_pages(pytester):
    pytester.makepyfile(
        """
        def test_fails(hmm_space):
            x = hmm_space.ones(1000)
            hmm_space.prefetch(x, hmm_space.devices[0])
            x[0] = 3
            assert x[0] == 2

        def test_fails_without_space():
            assert False
        """
    )
    result = run(pytester, "--hmm-device=emulated")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*hmmemu: what happened to the pages*", "*Host To Device", "Total CPU Page*"]
    )
    assert str(result.stdout).count("what happened to the pages") == 1


def test_passing_test_says_nothing(pytester):
    pytester.makepyfile("def test_passes(hmm_space): hmm_space.zeros(3)")
    result = run(pytester, "--hmm-device=emulated", "-rA")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*what happened to the pages*")


GPU_TEST = """
    import pytest

    @pytest.mark.hmm_gpu
    def test_on_a_gpu(hmm_space):
        assert "cuda" in repr(hmm_space.devices[0]).lower()
"""


def test_gpu_test_is_skipped_without_a_gpu(pytester, monkeypatch):
    monkeypatch.setenv("HMMEMU_LIBCUDA", "/nowhere/libcuda.so.1")  # on machines with a GPU, too
    pytester.makepyfile(GPU_TEST)
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs a real GPU: /nowhere/libcuda.so.1 cannot be loaded*"])


def test_gpu_test_is_skipped_where_the_device_is_emulated(pytester):
    pytester.makepyfile(GPU_TEST)
    result = run(pytester, "-rs", "--hmm-device=emulated")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs a real GPU, and the device chosen is emulated*"])


def test_option_wins_over_environment(pytester, monkeypatch):
    monkeypatch.setenv("HMMEMU_DEVICE", "cuda")
    monkeypatch.setenv("HMMEMU_TRACKER", "uffd")
    pytester.makepyfile("def test_passes(hmm_space): assert 'mulated' in repr(hmm_space.devices[0])")
    result = run(pytester, "--hmm-device=emulated")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["hmmemu: device emulated, tracker uffd"])


def test_the_device_is_emulated_unless_asked(pytester, monkeypatch):
    pytester.makepyfile("def test_passes(hmm_space): assert 'emulated' in repr(hmm_space.devices[0])")
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["hmmemu: device emulated, tracker auto"])
    monkeypatch.setenv("HMMEMU_LIBCUDA", "/nowhere/libcuda.so.1")
    result = run(pytester, "--hmm-device=auto")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["hmmemu: device auto (a GPU if one can be used, else emulated), tracker auto"]
    )


def test_fallback_is_told_by_the_header_and_not_by_a_warning(pytester):
    pytester.makepyfile("def test_passes(hmm_space): pass")
    run(pytester, "-W", "error::hmmemu.errors.FallbackWarning").assert_outcomes(passed=1)


def test_unknown_device_is_refused(pytester, monkeypatch):
    result = run(pytester, "--hmm-device=tpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*argument --hmm-device: 'tpu'; choose auto, *"])
    monkeypatch.setenv("HMMEMU_DEVICE", "tpu")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*HMMEMU_DEVICE is 'tpu'; choose auto, emulated, cuda or cuda:N; *"])


@pytest.mark.parametrize("listed", ["emulated,auto", "emulated,", ",", "emulated,tpu"])
def test_list_with_an_unknown_device_is_refused(listed):
    with pytest.raises(argparse.ArgumentTypeError, match="choose auto, emulated"):
        pytest_plugin._checked(listed)


def test_several_devices(pytester, monkeypatch):
    monkeypatch.setenv("HMMEMU_DEVICE", "emulated, emulated")
    pytester.makepyfile(
        test_two="def test_passes(hmm_space): assert len(hmm_space.devices) == 2", test_gpu=GPU_TEST
    )
    result = run(pytester, "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*needs a real GPU, and the device chosen is emulated*"])


def test_marker_and_fixture_are_listed(pytester):
    run(pytester, "--markers").stdout.fnmatch_lines(["@pytest.mark.hmm_gpu: needs a real GPU*"])
    run(pytester, "--fixtures").stdout.fnmatch_lines(["hmm_space*", "*A fresh*AddressSpace*"])


def test_plugin_imports_nothing_heavy():
    code = f"import sys, hmmemu.pytest_plugin; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_without_the_fixture_imports_nothing_heavy(pytester):
    pytester.makepyfile(
        f"""
        import sys

        def test_nothing_is_loaded():
            assert not [m for m in {HEAVY!r} if m in sys.modules]
        """
    )
    run(pytester, "-p", "no:hypothesispytest").assert_outcomes(passed=1)
