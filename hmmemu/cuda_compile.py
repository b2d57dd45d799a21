"""CUDA C++ to an image for a GPU: NVRTC, as CuPy finds and binds it, and a table of the kernels' parameters.

NVRTC needs no GPU and makes no CUDA context, so this runs in the user's process. Names come from the parser; sizes
and kinds from NVRTC itself: templates behind the user's source describe each kernel's type in a constant, and the
values are read from the PTX text. The file: see native/device/cuda/modules.cpp. No state but the disk cache.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hmmemu.compiler import Compiled, KernelSignature, VariableSignature, cache, declarations
from hmmemu.errors import CompileError, UnsupportedError

_TABLES = r"""
# 1 "<tables>"
namespace hmm_tables {
template <class T> struct Plain { using type = T; enum { is_const = 0 }; };
template <class T> struct Plain<const T> { using type = T; enum { is_const = 1 }; };
template <class T> struct Plain<volatile T> { using type = T; enum { is_const = 0 }; };
template <class T> struct Plain<const volatile T> { using type = T; enum { is_const = 1 }; };
template <class T> struct Size { enum { value = sizeof(T) }; };
template <> struct Size<void> { enum { value = 0 }; };
template <unsigned K, bool S, bool C = false, unsigned P = 0>
struct Is { enum { kind = K, is_signed = S, pointee_const = C, pointee = P }; };
template <class T> struct Kind : Is<5, false> {};
template <class T> struct Kind<T*> : Is<1, false, Plain<T>::is_const, Size<typename Plain<T>::type>::value> {};
template <class R, class... A> struct Kind<R (*)(A...)> : Is<1, false> {};
#define HMM_INTEGER(T) template <> struct Kind<T> : Is<2, ((T)-1 < (T)0)> {};
HMM_INTEGER(char) HMM_INTEGER(signed char) HMM_INTEGER(unsigned char) HMM_INTEGER(short) HMM_INTEGER(unsigned short)
HMM_INTEGER(int) HMM_INTEGER(unsigned) HMM_INTEGER(long) HMM_INTEGER(unsigned long) HMM_INTEGER(long long)
HMM_INTEGER(unsigned long long)
#undef HMM_INTEGER
template <> struct Kind<float> : Is<3, true> {};
template <> struct Kind<double> : Is<3, true> {};
template <> struct Kind<bool> : Is<4, false> {};
template <unsigned N> struct Table { unsigned values[6 * N + 1]; };
template <class F> struct Describe;
template <class... A> struct Describe<void (*)(A...)> {
  static __device__ constexpr Table<sizeof...(A)> table() {
    Table<sizeof...(A)> t{};
    unsigned i = 0;
    ((t.values[i++] = sizeof(A), t.values[i++] = alignof(A), t.values[i++] = Kind<typename Plain<A>::type>::kind,
      t.values[i++] = Kind<typename Plain<A>::type>::is_signed,
      t.values[i++] = Kind<typename Plain<A>::type>::pointee_const,
      t.values[i++] = Kind<typename Plain<A>::type>::pointee), ...);
    return t;
  }
};
}
"""


@dataclass(frozen=True)
class _Wanted:
    """A kernel to be compiled: what the user calls it, an expression that names it, and how it was written."""

    name: str
    expression: str
    signature: KernelSignature


def compile_module(
    code: str,
    capability: tuple[int, int],
    *,
    filename: str | None = None,
    options: Sequence[str] = (),
    name_expressions: Sequence[str] = (),
) -> Compiled:
    """Compiles CUDA C++ source for GPUs of a compute capability, or finds it in the cache.

    Raises:
        CompileError: NVRTC's log, with the user's own file name and lines; a name expression that names no kernel.
        UnsupportedError: CuPy or its NVRTC cannot be used.
    """
    nvrtc = _nvrtc()
    name = filename or "kernel.cu"
    kernels, variables = declarations(code, filename=name, options=options)
    wanted = _wanted(kernels, name_expressions)
    flags = [f"--gpu-architecture={_architecture(nvrtc, capability)}", *options, *_folders(nvrtc)]
    if not any("-std=" in option for option in options):
        flags.append("--std=c++17")
    named = [(w.name, w.expression) for w in wanted], [(v.qualified_name, v.constant) for v in variables]
    key = cache.key("cuda 4", code, name, flags, named, nvrtc.getVersion())

    def build(target: Path) -> None:
        table, image = _compile(nvrtc, code, name, flags, wanted, variables)
        target.write_bytes(table.encode() + b"\n" + image)

    return Compiled(cache.get_or_build(key, build, suffix=".cuda", magic=b"hmmemu-cuda 3\n"), key, key)


def _nvrtc() -> Any:
    try:
        nvrtc = import_module("cupy.cuda").nvrtc
        nvrtc.getVersion()
    except Exception as error:  # CuPy raises many kinds
        raise UnsupportedError(
            f"kernels for a GPU are compiled with CuPy's NVRTC, which cannot be used: {error}; "
            "pip install nvidia-cuda-nvrtc-cu12 (of CUDA 13: nvidia-cuda-nvrtc), or install the CUDA toolkit"
        ) from error
    return nvrtc


def _architecture(nvrtc: Any, capability: tuple[int, int]) -> str:
    """The GPU's own; of one that is newer than this NVRTC the latest before it, as PTX, which the driver compiles."""
    number = 10 * capability[0] + capability[1]
    known = nvrtc.getSupportedArchs()
    older = [one for one in known if one < number]
    return f"compute_{max(older)}" if older and number not in known else f"sm_{number}"


def _folders(nvrtc: Any) -> list[str]:
    """Where CuPy's headers are, and CUDA's own, if they are: cuda_fp16.h and the like."""
    cupy = import_module("cupy")
    own = Path(cupy.__file__ or "").parent / "_core" / "include"
    found = [own, *(own / "cupy" / "_cccl" / part for part in ("cub", "thrust", "libcudacxx"))]
    root = cupy.cuda.get_cuda_path()
    if root:
        found.append(Path(root) / "include")
    else:  # Python packages: those of CUDA 12 have a folder each, those of CUDA 13 one for all
        major = nvrtc.getVersion()[0]
        packages = find_spec("nvidia")
        roots = packages.submodule_search_locations if packages else None
        part = "cuda_runtime" if major < 13 else f"cu{major}"
        found += [Path(root) / part / "include" for root in roots or ()]
    return [f"-I{folder}" for folder in found if folder.is_dir()]


_MISSING = re.compile(r'(?:could not|cannot) open source file "([^"]+)"')


def _log(nvrtc: Any, text: str) -> str:
    """NVRTC's log, and what to do about a header that it does not find."""
    told = text.strip("\0\n ")
    missing = _MISSING.search(told)
    if missing is None:
        return told
    if "." not in missing[1].rsplit("/", 1)[-1]:
        return f"{told}\nhint: NVRTC has no headers of the C++ library; <cuda/std/{missing[1]}> is libcu++'s"
    package = "nvidia-cuda-runtime-cu12" if nvrtc.getVersion()[0] < 13 else "nvidia-cuda-runtime"
    return (
        f"{told}\nhint: CUDA's own headers come with the CUDA toolkit, or pip install {package}; folders of yours are "
        "told by options=('-Ifolder',)"
    )


def _wanted(kernels: Sequence[KernelSignature], expressions: Sequence[str]) -> list[_Wanted]:
    plain = [k for k in kernels if not k.is_template]
    found = [
        _Wanted(k.qualified_name, f"::{k.qualified_name}", k)
        for k in plain
        if [other.qualified_name for other in plain].count(k.qualified_name) == 1
    ]
    short = [k.name for k in plain]
    found += [
        _Wanted(w.signature.name, w.expression, w.signature)
        for w in list(found)
        if w.signature.name != w.name and short.count(w.signature.name) == 1
    ]
    return found + [_by_expression(kernels, expression) for expression in expressions]


def _by_expression(kernels: Sequence[KernelSignature], expression: str) -> _Wanted:
    base = re.sub(r"\s", "", expression.split("<")[0]).lstrip("&").removeprefix("::")
    for kernel in kernels:
        if base in (kernel.qualified_name, kernel.name):
            return _Wanted(expression, expression.strip().lstrip("&").strip(), kernel)
    known = ", ".join(sorted({k.qualified_name for k in kernels})) or "none"
    raise CompileError(f"name expression {expression!r} names no kernel of this source; its kernels: {known}")


def _compile(
    nvrtc: Any,
    code: str,
    name: str,
    flags: Sequence[str],
    wanted: Sequence[_Wanted],
    variables: Sequence[VariableSignature],
) -> tuple[str, bytes]:
    """The table as text, and the image."""
    constants = "".join(
        f'extern "C" __device__ constexpr auto hmm_table_{i} = '
        f"hmm_tables::Describe<decltype(&{w.expression})>::table();\n"
        f"__device__ const void* const hmm_keep_{i} = &hmm_table_{i};\n"
        for i, w in enumerate(wanted)
    )
    program = nvrtc.createProgram(f"{code}\n{_TABLES}{constants}", name, (), ())
    try:
        for v in variables:
            nvrtc.addNameExpression(program, f"&::{v.qualified_name}")
        for i, w in enumerate(wanted):
            nvrtc.addNameExpression(program, w.expression)
            nvrtc.addNameExpression(program, f"&hmm_table_{i}")
            nvrtc.addNameExpression(program, f"&hmm_keep_{i}")
        try:
            nvrtc.compileProgram(program, tuple(flags))
        except nvrtc.NVRTCError as error:
            raise CompileError(_log(nvrtc, nvrtc.getProgramLog(program)) or str(error)) from None
        ptx = _text(nvrtc.getPTX(program)).rstrip("\0")
        try:
            image = bytes(nvrtc.getCUBIN(program))
        except RuntimeError:  # there is none for compute_XX
            image = ptx.encode()
        symbols = [_text(nvrtc.getLoweredName(program, w.expression)) for w in wanted]
        places = [_text(nvrtc.getLoweredName(program, f"&::{v.qualified_name}")) for v in variables]
    finally:
        nvrtc.destroyProgram(program)
    lines = ["hmmemu-cuda 3", *_prints(ptx)]
    for v, symbol in zip(variables, places, strict=True):
        lines.append(_line("variable", v.qualified_name, symbol, int(v.constant)))
    for i, (w, symbol) in enumerate(zip(wanted, symbols, strict=True)):
        lines += _describe(w, symbol, _values(ptx, i))
    return "\n".join(lines) + "\n", image


def _prints(ptx: str) -> list[str]:
    """The line of an image whose kernels may print: PTX calls these for printf and assert.

    https://docs.nvidia.com/cuda/ptx-writers-guide-to-interoperability/index.html#system-calls
    """
    return ["prints"] if re.search(r"\b(vprintf|__assertfail)\b", ptx) else []


def _text(found: str | bytes) -> str:
    return found.decode() if isinstance(found, bytes) else found


def _values(ptx: str, number: int) -> list[int]:
    """The integers of constant hmm_table_N; PTX leaves out zeros at the end."""
    found = re.search(rf"\.b8 hmm_table_{number}\[(\d+)\](?: = \{{([\d, ]*)\}})?;", ptx)
    if found is None:  # one integer
        return []
    raw = bytes(int(byte) for byte in (found[2] or "").split(",") if byte.strip()).ljust(int(found[1]), b"\0")
    return list(struct.unpack(f"<{len(raw) // 4}I", raw))[:-1]


def _describe(wanted: _Wanted, symbol: str, values: Sequence[int]) -> list[str]:
    rows = [values[i : i + 6] for i in range(0, len(values), 6)]
    offset, lines = 0, []
    for parameter, (size, align, *rest) in zip(wanted.signature.parameters, rows, strict=True):
        offset = -(-offset // align) * align
        lines.append(_line("param", parameter.name, parameter.type, offset, size, *rest))
        offset += size
    return [_line("kernel", wanted.name, symbol, offset), *lines]


def _line(*fields: object) -> str:
    return "\t".join(re.sub(r"\s+", " ", str(field)) for field in fields)
