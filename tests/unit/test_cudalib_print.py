"""printf, assert and __trap in kernels: what reaches the loader's services."""

from __future__ import annotations

import ctypes
import math

import pytest
from cudalib import build

FAIL_ASSERT, FAIL_TRAP = 1, 2
LIBC_ASSERT = (
    'extern "C" [[noreturn]] void __assert_fail(const char*, const char*, unsigned, const char*) noexcept;'
)


def run(body: str, *, before: str = "", flags: tuple[str, ...] = ()) -> tuple[str, int, int, int]:
    """Runs `body`; returns the text, the failure, the number of print calls, and `result`."""
    lib = build(
        f'{before}\nint result;\n#line 41 "user file.cu"\nvoid body() {{ {body} }}\nextern "C" int run() {{ result = -99; return mock_run(body); }}\nextern "C" int get() {{ return result; }}',
        flags,
    )
    failure = lib.run()
    lib.mock_output.restype = ctypes.c_char_p
    return lib.mock_output().decode(), failure, lib.mock_print_count(), lib.get()


def test_formats_in_one_call() -> None:
    text, failure, calls, result = run(
        'result = printf("%d|%5u|%x|%-6.2f|%g|%s|%c|%lld|%zu|%e|%%|%08.3f|%*d|%o|%i\\n", -7, 42u, 255, 3.14159, 0.1f, "text", \'c\','
        " -1234567890123ll, (size_t)99, 12345.678, 2.5, 4, 6, 8, 9);"
    )
    assert text == "-7|   42|ff|3.14  |0.1|text|c|-1234567890123|99|1.234568e+04|%|0002.500|   6|10|9\n"
    assert (failure, calls, result) == (0, 1, 15)  # CUDA's printf returns the number of arguments


def test_pointer_and_special_floats() -> None:
    text, *_ = run('printf("%p %f %f %s", (void*)0x1234, INFINITY, -INFINITY, "a\\tb");')
    assert text == f"0x1234 {math.inf} {-math.inf} a\tb"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ('printf("plain line\\n")', "plain line\n"),
        ('printf("x")', "x"),
        ('printf("%s\\n", "line")', "line\n"),
        ('printf("%c", 65)', "A"),
        ('printf("")', ""),
    ],
)
def test_calls_that_compilers_rewrite(call: str, text: str) -> None:
    assert run(f"{call};")[0] == text


def test_with_the_standard_headers() -> None:
    for header in ("<stdio.h>", "<cstdio>"):
        text, _, calls, _ = run(
            'printf("%d\\n", 1); std::printf("two\\n");'
            if header == "<cstdio>"
            else 'printf("%d\\n", 1); printf("two\\n");',
            before=f"#include {header}",
        )
        assert (text, calls) == ("1\ntwo\n", 2)


def test_null_format() -> None:
    text, _, calls, result = run("const char* none = nullptr; result = printf(none);")
    assert (text, calls, result) == ("", 0, -1)


def test_long_text_is_cut_and_says_so() -> None:
    text, *_ = run(
        "char many[20000]; memset(many, 'y', sizeof many); many[19999] = 0; printf(\"%s\\n\", many);"
    )
    assert len(text) == 8191 and text.endswith("yyy... [printf cut at 8 KiB]\n")
    just_fits, *_ = run(
        "char many[8191]; memset(many, 'y', sizeof many); many[8190] = 0; printf(\"%s\\n\", many);"
    )
    assert just_fits == "y" * 8190 + "\n"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "#include <assert.h>",
        "#include <cassert>",
        "#define NDEBUG\n#include <assert.h>\n#undef NDEBUG\n#include <assert.h>",
    ],
)
def test_assert_has_cudas_text(header: str) -> None:
    text, failure, _, result = run(
        'int n = 3; assert(n == 3); result = 1; assert(n < 3 && "reason"); result = 2;', before=header
    )
    assert failure == FAIL_ASSERT and result == 1
    where = "block: [3,0,0], thread: [5,7,0]"
    text = text.replace("void body()", "body")  # from the system's <assert.h>, where that comes first
    assert text == f'user file.cu:41: body: {where} Assertion `n < 3 && "reason"` failed.'


def test_assert_fail_of_libc_is_ours() -> None:
    text, failure, *_ = run('__assert_fail("x > 0", "a.cu", 7, "void k()");', before=LIBC_ASSERT)
    assert (failure, text) == (
        FAIL_ASSERT,
        "a.cu:7: void k(): block: [3,0,0], thread: [5,7,0] Assertion `x > 0` failed.",
    )


def test_assert_with_commas_and_in_an_expression() -> None:
    text, failure, *_ = run(
        "int a[2] = {1, 2}; (assert((a[0], a[1]) == 2), result = 1); assert(float2{1, 2}.x > 1);"
    )
    assert failure == FAIL_ASSERT and "Assertion `float2{1, 2}.x > 1` failed." in text


@pytest.mark.parametrize(
    ("before", "flags"), [("#define NDEBUG\n#include <cassert>", ()), ("", ("-DNDEBUG",))]
)
def test_ndebug_switches_assert_off(before: str, flags: tuple[str, ...]) -> None:
    text, failure, _, result = run("assert(false); result = 5;", before=before, flags=flags)
    assert (text, failure, result) == ("", 0, 5)


def test_unknown_thread_is_not_invented() -> None:
    text, failure, *_ = run("hmmemu_worker_self->thread_known = 0; assert(0);")
    assert failure == FAIL_ASSERT and "block: [3,0,0], thread: [?] Assertion `0` failed." in text


def test_trap() -> None:
    text, failure, _, result = run("result = 1; __trap(); result = 2;")
    assert (failure, result) == (FAIL_TRAP, 1) and "__trap" in text
