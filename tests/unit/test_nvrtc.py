"""Every CUDA source of ours is valid CUDA: NVIDIA's own compiler takes it, for the oldest and a recent architecture.

That covers the workloads in kernels/ and every function that the tests of the device library call.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import nvrtc
import pytest
import test_cudalib_atomics
import test_cudalib_headers
import test_cudalib_integer
import test_cudalib_math
import test_cudalib_rounding

from hmmemu.kernels import WORKLOADS

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.INSTALL_HINT)

FOLDER = Path(__file__).parents[2] / "kernels"
KERNELS = [FOLDER / f"{name}.cu" for name in WORKLOADS]
ARCHITECTURES = [75, 90]

Function = tuple[str, list[str], str]


def all_functions() -> Iterator[tuple[str, dict[str, Function]]]:
    yield "integer", {name: test_cudalib_integer.expression(name) for name in test_cudalib_integer.FUNCTIONS}
    yield "rounding", test_cudalib_rounding.FUNCTIONS
    yield "math", test_cudalib_math.FUNCTIONS
    yield "atomics", test_cudalib_atomics.expressions()


def kernel(name: str, function: Function) -> str:
    expression, inputs, output = function
    parameters = "".join(f", {kind} {letter}" for kind, letter in zip(inputs, "abcdef", strict=False))
    if "&target" in expression:
        expression, parameters = (
            expression.replace("&target", "target"),
            f", {inputs[0]}* target" + parameters,
        )
    return f"__global__ void run{name}({output}* out{parameters}) {{ *out = {expression}; }}\n"


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_workload(path: Path, arch: int) -> None:
    """Every kernel that the workload launches is in the PTX; templates are instantiated by their name expressions."""
    names = WORKLOADS[path.stem].kernels
    templates = [name for name in names if "<" in name]
    text = nvrtc.compile_to_ptx(path.read_text(), name=str(path), arch=arch, expressions=templates)
    entries = re.findall(r"\.entry (\w+)", text)
    for name in names:
        assert any(name.split("<")[0].split("::")[-1] in entry for entry in entries), (name, entries)
    assert len(entries) >= len(names)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("path", "count"), [("bench/kernels.cu", 10), ("kernels/pages.cu", 3)])
def test_other_kernels(path: str, count: int, arch: int) -> None:
    file = FOLDER.parent / path
    assert nvrtc.compile_to_ptx(file.read_text(), name=str(file), arch=arch).count(".entry") >= count


def test_every_source_is_compiled() -> None:
    assert {path.name for path in FOLDER.glob("*.cu")} == {path.name for path in KERNELS} | {"pages.cu"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("group", "functions"), list(all_functions()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_functions_of_the_device_library(group: str, functions: dict[str, Function], arch: int) -> None:
    text = nvrtc.compile_to_ptx(
        "".join(itertools.starmap(kernel, functions.items())), name=f"{group}.cu", arch=arch
    )
    assert text.count(".entry") == len(functions)


def test_atomics_of_compute_capability_9() -> None:
    functions = test_cudalib_atomics.expressions_90()
    source = "".join(itertools.starmap(kernel, functions.items()))
    text = nvrtc.compile_to_ptx(source, name="atomics90.cu", arch=90, options=("--device-int128",))
    assert text.count(".entry") == len(functions)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_layouts_and_overloads(arch: int) -> None:
    source = test_cudalib_headers.layout_checks() + test_cudalib_headers.OVERLOADS
    nvrtc.compile_to_ptx(source, arch=arch)


def test_wrong_source_is_refused() -> None:
    with pytest.raises(nvrtc.NvrtcError, match=r"wrong\.cu"):
        nvrtc.compile_to_ptx("__global__ void k() { nothing(); }", name="wrong.cu")
