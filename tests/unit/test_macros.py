"""The preprocessor for analyses: token for token, and line for line, what the compiler's own one gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steady import STEADY

import hmmemu as hmm
from hmmemu.compiler.macros import expand_macros
from hmmemu.compiler.options import parse_options
from hmmemu.compiler.preprocess import preprocess
from hmmemu.compiler.toolchain import find_compiler

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("kernels/*.cu"), *ROOT.glob("bench/*.cu"), *ROOT.glob("tests/**/*.cu")])
INCLUDE = f"-I{ROOT / 'tests/integration/programs/include'}"


def tokens(text: str) -> list[tuple[str, int, str]]:
    """Each token with its file and line, by the markers. (clang loses count after a raw string; then lines are 0.)"""
    found, name, line = [], "", 0
    counts = find_compiler().family == "gcc"
    for row in text.split("\n"):
        marker = re.match(r'# (\d+) "(.*)"', row)
        if marker:
            line, name = int(marker[1]), marker[2]
            continue
        if not row.startswith("#include"):
            words = re.findall(r'"(?:\\.|[^"\\])*"|\w+|[^\s\w]', row)
            found += [(name, line if counts else 0, word) for word in words]
        line += 1
    return found


def check_same(code: str, name: str = "k.cu", options: tuple[str, ...] = ()) -> None:
    asked = parse_options(options)
    ours = tokens(expand_macros(code, name, asked))
    assert ours == tokens(preprocess(code, name, asked, find_compiler()))


def test_there_are_sources():
    assert len(SOURCES) >= 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_sources(path):
    check_same(path.read_text(), str(path), (INCLUDE,))


CASES = {
    "a call over lines": "#define ADD(x, n) atomicAdd(&(x), n)\nADD(y[\n 3], 4); int z;\nint w;",
    "paste": "#define CAT(a, b) a##b\n#define NO\nCAT(atomic, Add)(p, 1); CAT(NO, x) CAT(, y) CAT(NO, NO) CAT(1, e5)",
    "quote": '#define S(x) #x\n#define XS(x) S(x)\n#define N 3\nS(a "q\\n"  b) XS(N) S(N) S( )',
    "variadic": "#define V(f, ...) f(__VA_ARGS__)\nV(atomicCAS, p, 1, 2) V(g)\n#define W(a...) (a)\nW(1, 2) W()",
    "comma before nothing": "#define G(f, ...) f(0, ##__VA_ARGS__)\nG(a) G(a, 1, 2)",
    "no recursion": "#define self self + 1\nself\n#define f(x) x f(x)\nf(f(1)) f\n(3) f (f) (4) f",
    "mutual": "#define a b(1)\n#define b(x) a x b\na b(a)",
    "arguments are expanded first": "#define T(x) x x\n#define U(x) T(x)\n#define P(x) x##1\nU(U(3)) T(P(a)) T(P(b))",
    "brackets": "#define F(a, b) [a|b]\nF((1, 2), {3) F(\"a,b\", ',') F(x[1], y)",
    "not a call": "#define F(x) x\nint F = 3; F; (F)(4); F",
    "long lines": "#define LONG a \\\n  b \\\n  c\nLONG end\nint x;",
    "comments": "/* one\n two */ int after; // tail \\\n more tail\nint /**/ last; int u = 1 /*x*/ + 2;",
    "undef": "#define A 1\nA\n#undef A\nA\n#define A 2\nA",
    "conditions": "#if 0x10 / 3 == 5 && (1 ? 2 : 0) && -1 < 0 && 7 % 4 == 3 && 010 == 8 && 'a' == 97\nyes\n#else\nno\n#endif",
    "nested": "#ifdef A\n# if 1\nx\n# endif\n#elif defined B || !defined(C)\n# ifndef B\ny\n# else\nz\n# endif\n#else\nw\n#endif",
    "only one branch": "#if 1\na\n#elif 1\nb\n#elif 1\nc\n#else\nd\n#endif\n#if 0\n#if 1\ne\n#endif\n#elif 0\nf\n#else\ng\n#endif",
    "architecture": "#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 600\n#else\ndouble atomicAdd(double*, double);\n#endif\nint x;",
    "macros in conditions": "#define V(a, b) (a * 100 + b)\n#if V(7, 5) == __CUDA_ARCH__ || V(7, 5) == 705\nyes\n#endif",
    "raw string": 'const char* s = R"x(\n // not a comment "\n)x"; int q;\nint r;',
    "apostrophes": "int n = 1'000'000; char c = '\\''; // don't\nint m;",
    "pragma": "#pragma unroll 4\nfor (;;);\n_Bool b;",
    "dead text": "#if 0\nthis isn't code \" at all\n#error no\n#include \"nosuch.h\"\n#endif\nint x;",
    "includes of the system": "#include <cuda_runtime.h>\nint x;\n#include <cuda_fp16.h>\nint y;",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cases(name):
    check_same(CASES[name])


def test_options_define_and_undefine():
    code = "#ifdef A\nA B\n#endif\n#ifndef __CUDACC__\nhost\n#endif\nC"
    check_same(code, options=("-DA=1+1", "-D", "B", "-U__CUDACC__", "-DC="))


def test_headers(tmp_path):
    (tmp_path / "beside.h").write_text("#pragma once\n#define N 3\nint beside;\n#include <below/other.h>\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "other.h").write_text("#ifndef G\n#define G\nint guarded;\n#endif\nint twice;\n")
    (tmp_path / "first.h").write_text("#define FIRST 1\n")
    code = '#include "beside.h"\nint a;\n#include "beside.h"\nint b = N + FIRST;\n#include "below/other.h"\nint c;'
    code += '\n#define H "beside.h"\n#include H\nint d;\n#if __has_include("beside.h") && !__has_include("no.h")\ne\n#endif'
    options = (f"-I{tmp_path}", "-include", str(tmp_path / "first.h"))
    check_same(code, str(tmp_path / "k.cu"), options)


def test_a_header_that_is_not_found_stays():
    text = expand_macros("#include <cuda/atomic>\nint x;", "k.cu", parse_options(()))
    assert "#include <cuda/atomic>\n" in text and ("k.cu", 2, "x") in [
        (name, line or 2, word) for name, line, word in tokens(text)
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("int x;\n#error too old\n", "k.cu:2: #error too old"),
        ("#if 1 +\n#endif", "k.cu:1: #if cannot be evaluated: 1 +"),
        ("#if\n#endif", "k.cu:1: #if cannot be evaluated: nothing there"),
        ("#if (1\n#endif", "#if cannot be evaluated"),
        ("#if 1 1\n#endif", "#if cannot be evaluated"),
        ("#if 1\nx", "k.cu: an #if has no #endif"),
        ("\n#endif", "k.cu:2: #endif without #if"),
        ("#define 3 4", "k.cu:1: #define needs a name"),
        ("#include nothing", "k.cu:1: #include needs a file in quotes or angle brackets"),
    ],
)
def test_mistakes(code, words):
    with pytest.raises(hmm.CompileError) as caught:
        expand_macros(code, "k.cu", parse_options(()))
    assert words in str(caught.value)


def test_a_header_that_includes_itself(tmp_path):
    (tmp_path / "loop.h").write_text('#include "loop.h"\n')
    with pytest.raises(hmm.CompileError, match="nested more than 100 deep"):
        expand_macros('#include "loop.h"', str(tmp_path / "k.cu"), parse_options(()))


NAMES = st.sampled_from(["A", "B", "F", "G"])
WORD = st.one_of(
    NAMES,
    st.sampled_from(["x", "y", "1", "+", "F(x)", "G(A, 1)", "F(G(B, A))", "F", "(A)", "F(F(B))", "G(, x)"]),
)
# C does not say whether a call begins whose name ends a macro and whose arguments follow it (6.10.3.4, paragraph 4).
BODY = st.lists(WORD, max_size=4).map(" ".join).filter(lambda body: not body.endswith(("F", "G")))
PASTED = st.sampled_from(["x##y z", "x y", "#x", "x(y)", "F(y) x", "y##x##1", "x A y", "G(x, y)"])


@settings(STEADY, max_examples=60)
@given(BODY, BODY, BODY, PASTED, st.lists(WORD, min_size=1, max_size=6).map("\n".join))
def test_random_macros(a, b, f, g, text):
    f = re.sub(r"\bx\b", "p", f)
    g = g.replace("#x", "#p").replace("x", "p").replace("pp", "p") if "#" in g else g.replace("x", "p")
    g = g.replace("y", "q")
    code = f"#define A {a}\n#define B {b}\n#define F(p) {f}\n#define G(p, q) {g}\n{text}\n;"
    try:
        preprocess(code, "k.cu", parse_options(()), find_compiler())
    except hmm.CompileError:
        return  # pasted to what is no token, or a call without an end
    check_same(code)
