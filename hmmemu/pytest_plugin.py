"""The pytest plugin: shared memory for a project's own tests, with or without a GPU.

`hmm_space` is a fresh address space for one test, closed after it; when the test fails, the report says what
happened to the pages. `--hmm-device` and HMMEMU_DEVICE choose the device, else it is an emulated one; HMMEMU_TRACKER
chooses the tracker. Tests marked `hmm_gpu` need a real GPU and are skipped without one.

pytest loads this file in every run of every project that has hmmemu installed, so nothing beyond pytest is
imported until a test asks for a space. A test's items and stash belong to pytest's one thread: no lock.
"""

from __future__ import annotations

import os
import re
import warnings
from argparse import ArgumentTypeError
from collections.abc import Generator, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hmmemu import AddressSpace

_DEVICES = "auto, emulated, cuda or cuda:N; several with commas, without auto"
_MARKER = "hmm_gpu: needs a real GPU; skipped, with the reason, where there is none"
_SPACE = pytest.StashKey["AddressSpace"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--hmm-device`."""
    group = parser.getgroup("hmmemu")
    words = f"device of the fixture hmm_space: {_DEVICES} (default: HMMEMU_DEVICE, else emulated)"
    group.addoption("--hmm-device", type=_checked, default=None, help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker and refuses a HMMEMU_DEVICE that does not exist."""
    config.addinivalue_line("markers", _MARKER)
    try:
        _checked(_device(config))
    except ArgumentTypeError as error:
        raise pytest.UsageError(f"HMMEMU_DEVICE is {error}") from None


def pytest_report_header(config: pytest.Config) -> str:
    """One line that says which device is in use, and why."""
    return f"hmmemu: device {_device_words(_device(config))}, tracker {_tracker()}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test that needs a GPU where there is none to be used."""
    if item.get_closest_marker("hmm_gpu") is None:
        return
    if set(_names(_asked(item.config))) == {"emulated"}:
        pytest.skip("needs a real GPU, and the device chosen is emulated")
    missing = why_no_gpu(_gpu(item.config))
    if missing:
        pytest.skip(f"needs a real GPU: {missing}")


@pytest.fixture
def hmm_space(request: pytest.FixtureRequest) -> Iterator[AddressSpace]:
    """A fresh `hmmemu.AddressSpace`, the current one during the test, closed after it."""
    import hmmemu

    marked = request.node.get_closest_marker("hmm_gpu") is not None
    device = _gpu(request.config) if marked else _device(request.config)
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
def why_no_gpu(device: str = "cuda") -> str:
    """Why that GPU cannot be used, empty if it can. Asks the driver in another process: this one may have to fork."""
    from hmmemu.errors import Error
    from hmmemu.gpus import choose_gpu, why_no_driver

    try:
        if reason := why_no_driver():
            return reason
        choose_gpu(device)
    except Error as error:
        return str(error)
    return ""


def _asked(config: pytest.Config) -> str:
    """What the option or the environment says; empty if neither does."""
    chosen: str | None = config.getoption("--hmm-device")
    return chosen or os.environ.get("HMMEMU_DEVICE") or ""


def _device(config: pytest.Config) -> str:
    """Not "auto" unless that was asked for: what a test does is to depend on the machine as little as possible."""
    return _asked(config) or "emulated"


def _gpu(config: pytest.Config) -> str:
    """The GPU for tests that need one: the first of those asked for."""
    return next((name for name in _names(_asked(config)) if name.startswith("cuda")), "cuda")


def _names(devices: str) -> list[str]:
    return [name.strip() for name in devices.split(",")]


def _checked(devices: str) -> str:
    """The same, or ArgumentTypeError for what is no device and no list of them."""
    known = all(re.fullmatch(r"emulated|cuda(:\d+)?", name) for name in _names(devices))
    if not known and devices != "auto":
        raise ArgumentTypeError(f"{devices!r}; choose {_DEVICES}")
    return devices


def _tracker() -> str:
    return os.environ.get("HMMEMU_TRACKER") or "auto"


def _device_words(device: str) -> str:
    return "auto (a GPU if one can be used, else emulated)" if device == "auto" else device


def _statistics(space: Any) -> str:
    try:
        return f"{space.devices[0]!r}\n{space.stats()}"
    except Exception as error:  # the report of the test's own failure must not be lost
        return f"no statistics: {type(error).__name__}: {error}"
