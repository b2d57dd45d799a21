"""What to do about the commonest mistakes: sentences that follow the C++ compiler's own message.

A hint is given for what the message says, never for what the source looks like, so none is given where all is well.
"""

from __future__ import annotations

import re

_HINTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (
            r"fatal error: ((?:cooperative_groups|cub/|thrust/|cuda/|curand|cublas|cufft|mma\.h|nvtx|texture_)[^\s:']*)",
            r"<\1> is a library of the CUDA toolkit, which is not here; docs/kernels.md tells what of CUDA works",
        ),
        (
            r"fatal error: ([^\s:']+): No such file|fatal error: '([^']+)' file not found",
            "the folders of headers are told by options=('-Ifolder',)",
        ),
        (
            r"['‘](__shfl(?:_up|_down|_xor)?|__any|__all|__ballot)['’] was not declared|undeclared identifier '(__shfl\w*|__any|__all|__ballot)'",
            "CUDA 9 replaced it: its name ends in _sync now, and its first argument is the mask of the lanes, 0xffffffff for all",
        ),
        (
            r"(?:cuda(?:Texture|Surface)\w+|tex[123]D\w*|surf[123]D\w*)['’]? (?:was not|has not been) declared|unknown type name 'cuda(?:Texture|Surface)\w+'",
            "textures and surfaces are not there; read the array itself",
        ),
        (
            r"['‘]cuda[A-Z]\w+['’] was not declared|undeclared identifier 'cuda[A-Z]\w+'",
            "CUDA's host functions are not there: memory and launches are Python's part; #ifndef __CUDACC_RTC__ can hide host code",
        ),
        (
            r"no such instruction|Assembler messages|in 'asm'|in asm|invalid instruction mnemonic|unrecognized instruction",
            "PTX is for NVIDIA's GPUs and cannot run here; #ifdef __HMMEMU__ can choose C++ instead",
        ),
        (
            r"expected (?:primary-)?expression(?: before '<' token)?[^\n]*\n[^\n]*<<<",
            "a launch with <<<...>>> does not work in a source; launch from Python: kernel(grid, block, args)",
        ),
        (
            r"exception handling disabled|cannot use '(?:try|throw)' with exceptions disabled",
            "kernels have no exceptions, here as on a GPU; assert() ends a kernel with a message",
        ),
        (
            r"variably modified type|variable[- ]length array",
            "the size of a __shared__ array must be known to the compiler; for a size given at the launch use "
            "extern __shared__ T name[]; and shared_mem=bytes",
        ),
    )
)


def hints(told: str) -> list[str]:
    """Hints for a cleaned message: at most one of each kind, the more special ones first."""
    found: list[str] = []
    for pattern, text in _HINTS:
        match = pattern.search(told)
        if match:
            hint = f"hint: {match.expand(text)}"
            if "fatal error" in match[0] and found:
                continue  # a toolkit header is no matter of folders
            found.append(hint)
    return found
