"""The programs are CUDA C++ that NVIDIA's own compiler takes, for an old and for a new architecture."""

from __future__ import annotations

import nvrtc
import pytest
from cuda_programs import FOLDER, NAMES, OPTIONS
from random_kernels import PRELUDE, Generator


@pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.INSTALL_HINT)
@pytest.mark.parametrize("arch", [75, 90])
@pytest.mark.parametrize("name", NAMES)
def test_nvrtc_takes_it(name: str, arch: int) -> None:
    path = FOLDER / f"{name}.cu"
    ptx = nvrtc.compile_to_ptx(
        path.read_text(), name=path.name, arch=arch, options=OPTIONS.get(name, ()), expressions=NAMES[name]
    )
    assert ptx.count(".entry") >= path.read_text().count('extern "C" __global__') >= 1


@pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.INSTALL_HINT)
def test_nvrtc_takes_random_kernels() -> None:
    ptx = nvrtc.compile_to_ptx(PRELUDE + "".join(Generator(seed).text(f"k{seed}") for seed in range(16)))
    assert ptx.count(".entry") == 16


def test_no_program_is_left_out() -> None:
    assert {p.stem for p in FOLDER.glob("*.cu")} == set(NAMES)
