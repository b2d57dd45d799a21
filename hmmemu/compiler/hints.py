"""What to do about the commonest mistakes: sentences that follow the C++ compiler's own message.

A hint is given for what the message says, never for what the source looks like, so none is given where all is well.
"""

from __future__ import annotations

import re

_LIBRARIES = (
    r"(?:cooperative_groups|cub/|thrust/|cuda/|curand|cublas|cufft|cusparse|cusolver|cutlass/|mma\.h|nvtx|texture_|surface_"
    r"|cuda_(?:fp[468]|pipeline|awbarrier|texture|surface))"
)
_UNKNOWN = (
    r"(?:['‘]{0}['’] (?:was not|has not been) declared|(?:undeclared identifier|unknown type name) '{0}')"
)
# A pattern in the cleaned message, and what to tell; GCC's and clang's words.
_HINTS = (
    (
        rf"fatal error: '?({_LIBRARIES}[^\s:']*)",
        r"<\1> is a library of the CUDA toolkit, which is not here; docs/kernels.md tells what of CUDA works",
    ),
    (
        r"fatal error: '?(cupy/[^\s:']*)",
        r"<\1> is a header of CuPy's; of those <cupy/complex.cuh> is here",
    ),
    (
        rf"fatal error: '?(?!{_LIBRARIES}|cupy/)[^\s:']+'?(?:: No such file| file not found)",
        "the folders of headers are told by options=('-Ifolder',)",
    ),
    (
        _UNKNOWN.format(r"(?:__shfl(?:_up|_down|_xor)?|__any|__all|__ballot)"),
        "CUDA 9 replaced it: its name ends in _sync now, and the mask of the lanes comes first, 0xffffffff for all",
    ),
    (
        _UNKNOWN.format(r"(?:cuda(?:Texture|Surface)\w+|tex[123]D\w*|surf[123]D\w*)"),
        "textures and surfaces are not there; read the array itself",
    ),
    (
        _UNKNOWN.format(r"cuda(?!Texture|Surface)[A-Z]\w+"),
        "CUDA's host functions are not there, memory and launches are Python's part; "
        "#ifndef __CUDACC_RTC__ can hide host code",
    ),
    (
        r"Assembler messages|in '?asm|invalid 'asm'|in inline assembly|instantiated into assembly"
        r"|invalid instruction mnemonic|invalid register name",
        "PTX is for NVIDIA's GPUs and cannot run here; #ifdef __HMMEMU__ can choose C++ instead",
    ),
    (
        r"expected (?:primary-)?expression[^\n]*\n[^\n]*<<<",
        "a launch with <<<...>>> does not work in a source; launch from Python: kernel(grid, block, args)",
    ),
    (
        r"exception handling disabled|with exceptions disabled",
        "kernels have no exceptions, here as on a GPU; assert() ends a kernel with a message",
    ),
    (
        r"does not know the size of this __shared__|variably modified type|variable[- ]length array",
        "the size of a __shared__ array must be known to the compiler; for a size given at the launch use "
        "extern __shared__ T name[]; and shared_mem=bytes",
    ),
)


def hints(told: str) -> list[str]:
    """Hints for a cleaned message, each at most once."""
    found = ((re.search(pattern, told), text) for pattern, text in _HINTS)
    return [f"hint: {match.expand(text)}" for match, text in found if match]
