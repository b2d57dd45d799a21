"""The `.cu` files of this folder, each compiled once a session; tests check what their kernels compute."""

from __future__ import annotations

import functools
from pathlib import Path

import hmmemu as hmm

FOLDER = Path(__file__).parent
NAMES = {  # file: its name expressions
    "scan": ("dot<float, 256>", "dot<double, 64>", "dot<int, 512>", "row_maxima<8>", "row_maxima<16>"),
    "sorting": (),
    "grids": ("transpose<double>", "transpose<unsigned char>"),
    "numeric": ("gemm<float, 64, 32, 8, 8>", "gemm<double, 16, 16, 16, 4>"),
    "integers": (),
    "cxx": (
        "fold<int, 64>",
        "fold<float, 128, Larger>",
        "apply_constant<mul_f>",
        "outer::negate<int>",
        "outer::negate<float>",
    ),
    "memory": (),
    "pieces": (),
    "contexts": (
        "apply<Shifted>",
        "apply<>",
        "apply<Seventh>",
        "reverse<float>",
        "reverse<double>",
        "reverse<int>",
    ),
}
OPTIONS = {"cxx": ("-I" + str(FOLDER / "include"), "-DFROM_OPTION=11")}


@functools.cache
def program(name: str) -> hmm.RawModule:
    """The module of `name`.cu."""
    return hmm.RawModule(
        path=FOLDER / f"{name}.cu", options=OPTIONS.get(name, ()), name_expressions=NAMES[name]
    )
