"""Runs functions of the device library on the host: C++ text in, a loaded shared object out.

A test writes plain `extern "C"` functions against `hmmemu/cuda/all.h`; `MOCK_WORKER` supplies the worker that printf, assert
and fences talk to. Each source is compiled once a test session, into a temporary folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hmmemu.compiler.toolchain import find_compiler

INCLUDE = pathlib.Path(__file__).parents[1] / "hmmemu" / "compiler" / "include"
FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-Wl,-Bsymbolic",  # its own mock worker, whatever other test loaders are in the process
    "-pthread",
    "-UNDEBUG",
)

PRELUDE = '#include "hmmemu/cuda/all.h"\n'

# Text goes to `mock_text`; a failure is kept in `mock_failure` and jumps back to `mock_run`.
MOCK_WORKER = r"""
static hmm_worker mock_worker;
thread_local hmm_worker* hmmemu_worker_self = &mock_worker;
static char mock_text[1 << 20];
static size_t mock_length;
static volatile int mock_prints, mock_failure;
static void* mock_jump[5];
static void mock_print(hmm_worker*, const char* text, size_t bytes) {
  if (mock_length + bytes < sizeof mock_text) __builtin_memcpy(mock_text + mock_length, text, bytes);
  mock_length += bytes, mock_prints = mock_prints + 1;
}
__attribute__((noreturn)) static void mock_fail(hmm_worker* w, int failure, const char* message) {
  mock_print(w, message, __builtin_strlen(message));
  mock_failure = failure;
  __builtin_longjmp(mock_jump, 1);
}
static void mock_yield(hmm_worker*) {}
static const hmm_services mock_services = {mock_print, mock_fail, mock_yield, mock_yield, nullptr};
static const hmm_link mock_link = {{~0ull, ~0ull}, HMM_FALLBACK_CAS_LOOP, 0};
static volatile uint64_t mock_wanted;
__attribute__((constructor)) static void mock_link_up() {
  mock_worker.link = &mock_link, mock_worker.wanted = &mock_wanted;
}
extern "C" void mock_shared(void* arena) { mock_worker.shared = (unsigned char*)arena; }
extern "C" const char* mock_output() { return mock_text; }
extern "C" int mock_print_count() { return mock_prints; }
extern "C" int mock_run(void (*body)()) {
  mock_worker.services = &mock_services, mock_worker.thread_known = 1;
  mock_worker.block.x = 3, mock_worker.thread.x = 5, mock_worker.thread.y = 7;
  mock_length = 0, mock_prints = 0, mock_failure = 0;
  for (size_t i = 0; i < sizeof mock_text; ++i) mock_text[i] = 0;
  if (!__builtin_setjmp(mock_jump)) body();
  return mock_failure;
}
"""

_FOLDER = tempfile.TemporaryDirectory(prefix="hmmemu-cudalib-")


def build(
    source: str, flags: Sequence[str] = (), *, prelude: str = PRELUDE, standard: str = "gnu++17"
) -> ctypes.CDLL:
    """Compile `source` after the device library and load it. Raises AssertionError with the compiler's messages."""
    tools = find_compiler()
    command = [
        *tools.command,
        f"-std={standard}",
        *FLAGS,
        *flags,
        "-isystem",
        str(INCLUDE / "stub"),
        "-I",
        str(INCLUDE),
    ]
    text = prelude + MOCK_WORKER + source
    name = hashlib.sha256(repr((command, text)).encode()).hexdigest()[:16]
    path = pathlib.Path(_FOLDER.name) / f"{name}.so"
    if not path.exists():
        file = path.with_suffix(".cpp")
        file.write_text(text)
        libraries = ["-lm"] if tools.family == "clang" else ["-lmvec", "-lm"]
        done = subprocess.run(
            [*command, "-o", str(path), str(file), *libraries], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(path))


def assembly(source: str, *flags: str) -> str:
    """The compiler's assembly of `source`, after the device library."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = pathlib.Path(folder) / "x.cpp", pathlib.Path(folder) / "x.s"
        file.write_text(PRELUDE + source)
        command = [*find_compiler().command, "-std=gnu++17", *(f for f in FLAGS if f != "-shared"), *flags]
        subprocess.run(
            [*command, "-g0", "-I", str(INCLUDE), "-S", "-o", str(out), str(file)],
            check=True,
            capture_output=True,
            timeout=100,
        )
        return out.read_text(errors="replace")


def array_function(name: str, expression: str, inputs: Sequence[str], output: str) -> str:
    """C++ for `name(n, in0, in1, ..., out)`: out[i] = expression of a, b, c (the inputs' elements)."""
    letters = "abcdef"[: len(inputs)]
    parameters = "".join(f", const {kind}* p{letter}" for letter, kind in zip(letters, inputs, strict=True))
    loads = " ".join(f"{kind} {letter} = p{letter}[i];" for letter, kind in zip(letters, inputs, strict=True))
    return (
        f'extern "C" void {name}(long n{parameters}, {output}* out) {{\n'
        f"  for (long i = 0; i < n; ++i) {{ {loads} out[i] = {expression}; }}\n}}\n"
    )


def call(library: ctypes.CDLL, name: str, inputs: Sequence[npt.NDArray], dtype: npt.DTypeLike) -> npt.NDArray:
    """Call an `array_function`: same-length 1-D inputs in, an array of `dtype` out."""
    arrays = [np.ascontiguousarray(x) for x in inputs]
    out = np.empty(arrays[0].shape, dtype)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*arrays, out)]
    getattr(library, name)(ctypes.c_long(out.size), *pointers)
    return out


def ulp_error(got: npt.NDArray, exact: npt.NDArray) -> npt.NDArray:
    """|got - exact| in units in the last place of `got`'s type; `exact` is of a wider type. 0 where both are NaN or equal."""
    with np.errstate(all="ignore"):
        wide = exact.astype(np.longdouble)
        rounded = wide.astype(got.dtype)
        spacing = np.abs(np.spacing(np.where(np.isfinite(rounded), rounded, 0))).astype(np.longdouble)
        error = np.abs(got.astype(np.longdouble) - wide) / spacing
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(same, 0, error)
