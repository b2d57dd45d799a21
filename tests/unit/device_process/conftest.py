"""A device process with a hand-written module, fresh for every test, under each tracker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_rig import TRACKERS, Rig

import hmmemu


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("device") / "module.so"
    include = Path(hmmemu.__file__).parent / "compiler" / "include"
    source = Path(__file__).with_name("module.cpp")
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-O1", "-fPIC", "-shared", f"-I{include}"]
    subprocess.run([*command, str(source), "-o", str(target)], check=True, timeout=60)
    return target


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(module: Path, tracker: str) -> Iterator[Rig]:
    made = Rig(module, tracker=tracker)
    yield made
    made.close()
