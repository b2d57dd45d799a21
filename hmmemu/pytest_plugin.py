"""The pytest plugin: shared memory for a project's own tests, with or without a GPU.

`hmm_space` is a fresh address space for one test, closed after it; when the test fails, the report says what
happened to the pages. `--hmm-device` and HMMEMU_DEVICE choose the device, HMMEMU_TRACKER the tracker. Tests
marked `hmm_gpu` need a real GPU and are skipped without one.

pytest loads this file in every run of every project that has hmmemu installed, so nothing beyond pytest is
imported until a test asks for a space. A test's items and stash belong to pytest's one thread: no lock.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hmmemu import AddressSpace

_DEVICES = ("auto", "emulated", "cuda")
_MARKER = "hmm_gpu: needs a real GPU; skipped, with the reason, where there is none"
_SPACE = pytest.StashKey["AddressSpace"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--hmm-device`."""
    group = parser.getgroup("hmmemu")
    words = "device of the fixture hmm_space: auto, emulated or cuda (default: HMMEMU_DEVICE, else auto)"
    group.addoption("--hmm-device", choices=_DEVICES, default=None, help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker and refuses a HMMEMU_DEVICE that does not exist."""
    config.addinivalue_line("markers", _MARKER)
    if _device(config) not in _DEVICES:
        raise pytest.UsageError(f"HMMEMU_DEVICE is {_device(config)!r}; choose one of {', '.join(_DEVICES)}")


def pytest_report_header(config: pytest.Config) -> str:
    """One line that says which device is in use, and why."""
    return f"hmmemu: device {_device_words(_device(config))}, tracker {_tracker()}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that needs a GPU where there is none to be used."""
    if item.get_closest_marker("hmm_gpu") is None:
        return
    if _device(item.config) == "emulated":
        pytest.skip("needs a real GPU, and the device chosen is emulated")
    missing = why_no_gpu()
    if missing:
        pytest.skip(f"needs a real GPU: {missing}")


@pytest.fixture
def hmm_space(request: pytest.FixtureRequest) -> Iterator[AddressSpace]:
    """A fresh `hmmemu.AddressSpace`, the current one during the test, closed after it."""
    import hmmemu

    marked = request.node.get_closest_marker("hmm_gpu") is not None
    device = "cuda" if marked else _device(request.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hmmemu.FallbackWarning)  # the header of the run has told it
        opened = hmmemu.AddressSpace(device=device, tracker=_tracker())
    with opened as space:
        request.node.stash[_SPACE] = space
        yield space
        del request.node.stash[_SPACE]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the statistics of the space to the report of a test that failed, while the space is still open."""
    report = yield
    space = item.stash.get(_SPACE, None)
    if space is not None and report.when == "call" and report.failed:
        report.sections.append(("hmmemu: what happened to the pages", _statistics(space)))
    return report


@cache
def why_no_gpu() -> str:
    """Why no CUDA device can be used, empty if one can. Imports CuPy: call it only when it matters."""
    if find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        cupy = import_module("cupy")
        return "" if cupy.cuda.runtime.getDeviceCount() else "CuPy finds no CUDA device"
    except Exception as error:  # CuPy raises many kinds: no driver, a driver too old, a broken install
        return f"CuPy finds no CUDA device ({error})"


def _device(config: pytest.Config) -> str:
    chosen: str | None = config.getoption("--hmm-device")
    return chosen or os.environ.get("HMMEMU_DEVICE") or "auto"


def _tracker() -> str:
    return os.environ.get("HMMEMU_TRACKER") or "auto"


def _device_words(device: str) -> str:
    """The device in words, without importing CuPy: for `auto`, by what is visible from outside."""
    if device != "auto":
        return device
    if find_spec("cupy") is None:
        return "auto (emulated: CuPy is not installed)"
    if not Path("/proc/driver/nvidia/version").exists() and not Path("/dev/dxg").exists():
        return "auto (emulated: no NVIDIA driver is loaded)"
    return "auto (a CUDA GPU if CuPy can use it, else emulated)"


def _statistics(space: Any) -> str:
    try:
        return f"{space.devices[0]!r}\n{space.stats()}"
    except Exception as error:  # the report of the test's own failure must not be lost
        return f"no statistics: {type(error).__name__}: {error}"
