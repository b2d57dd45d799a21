"""Atomic operations found in source: which, where, on what memory, and what they do on each link; without a compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import hmmemu as hmm
from hmmemu.compiler.options import parse_options
from hmmemu.compiler.preprocess import preprocess
from hmmemu.compiler.toolchain import find_compiler
from hmmemu.kernels import WORKLOADS

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("kernels/*.cu"), *ROOT.glob("bench/*.cu"), *ROOT.glob("tests/**/*.cu")])
CALL = re.compile(r"\batomic(?:Add|Sub|Exch|Min|Max|Inc|Dec|CAS|And|Or|Xor)(?:_block|_system)?\s*\(")


def sites(code: str, name: str = "k", **more) -> list[hmm.AtomicSite]:
    return hmm.RawKernel(code, name).atomics(**more)


def only(code: str, name: str = "k") -> hmm.AtomicSite:
    (site,) = sites(code, name)
    return site


def body(
    text: str, parameters: str = "int* x, int* y, unsigned* u, unsigned long long* ull, float* f, double* d"
) -> str:
    return f"#include <cuda/atomic>\n__global__ void k({parameters}) {{ {text} }}"


# -- sources of the repository ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_as_many_as_a_regular_expression_finds(path):
    """After the compiler's own preprocessor. What no kernel of the file reaches would be missing; there is none."""
    options = (f"-I{ROOT / 'tests/integration/programs/include'}",)
    text = preprocess(path.read_text(), str(path), parse_options(options), find_compiler())
    expected = Counter(call[0].rstrip("( ") for call in CALL.finditer(text))
    places = {(site.file, site.line) for site in hmm.RawModule(path=path, options=options).atomics()}
    lines = [Path(file).read_text().split("\n")[line - 1] for file, line in places]
    assert Counter(call[0].rstrip("( ") for line in lines for call in CALL.finditer(line)) == expected


WORKLOAD_SITES = {
    "histogram": [("atomicAdd", "unsigned int", "local (__shared__)", "local"), ("atomicAdd", "unsigned int", "counts", "device")],
    "bfs": [("atomicCAS", "int", "level", "device"), ("atomicAdd", "int", "next_size", "device")],
    "kmeans": [
        ("atomicAdd", "unsigned long long", "local (__shared__)", "local"),
        ("atomicAdd", "unsigned long long", "local (__shared__)", "local"),
        ("atomicAdd", "unsigned long long", "sums", "device"),
    ],
    "tree_walk": [("atomicAdd", "unsigned int", "*root, root", "device")],
    "shared_histogram": [
        ("atomicAdd_system", "unsigned int", "counter", "native"),
        ("atomicAdd", "unsigned int", "local (__shared__)", "local"),
        ("atomicAdd_system", "unsigned int", "counts", "native"),
    ],
    "bfs_switch": [
        ("atomicCAS_system", "int", "level", "native"),
        ("atomicAdd_system", "int", "next_size", "native"),
    ],
    "sssp": [
        ("atomicMin_system", "int", "distance", "migrate"),
        ("atomicExch_system", "int", "queued", "native"),
        ("atomicAdd_system", "int", "next_size", "native"),
    ],
    "ransac": [
        ("atomicAdd_system", "int", "taken", "native"),
        ("atomicAdd", "int", "sum (__shared__)", "local"),
        ("atomicMin_system", "unsigned long long", "best", "migrate"),
    ],
    "task_queue": [
        ("atomicAdd_system", "unsigned int", "next", "native"),
        ("atomicExch_system", "unsigned int", "freed", "native"),
        ("atomicAdd", "unsigned int", "sum (__shared__)", "local"),
    ],
    "compaction": [
        ("atomicAdd_system", "unsigned int", "counter", "native"),
        ("atomicExch_system", "unsigned int", "flags", "native"),
    ],
    "padding": [
        ("atomicAdd_system", "unsigned int", "counter", "native"),
        ("atomicExch_system", "unsigned int", "flags", "native"),
    ],
    "transposition": [
        ("atomicAdd_system", "unsigned int", "counter", "native"),
        ("atomicExch_system", "unsigned int", "claimed", "native"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads(name):
    workload = WORKLOADS[name]
    found = [
        s for kernel in workload.kernels for s in hmm.RawKernel(workload.source, kernel).atomics("pcie4")
    ]
    told = [(s.call, s.type, ", ".join(s.arrays), s.route and s.route.value) for s in found]
    assert told == WORKLOAD_SITES.get(name, [])


# -- operations and types ---------------------------------------------------------------------------------------------

OPERATIONS = [
    ("atomicAdd(x, 1)", "INTEGER_ADD", "int", 4, True),
    ("atomicAdd(&u[3], 1)", "INTEGER_ADD", "unsigned int", 4, True),
    ("atomicAdd_system(ull + 2, 1ull)", "INTEGER_ADD", "unsigned long long", 8, True),
    ("atomicSub_block(x, 1)", "INTEGER_ADD", "int", 4, True),
    ("atomicAdd(f, 1)", "FLOAT_ADD", "float", 4, False),
    ("atomicAdd(d, 1)", "FLOAT_ADD", "double", 8, False),
    ("atomicExch(f, 1)", "EXCHANGE", "float", 4, True),
    ("atomicMin(x, 1)", "INTEGER_MIN", "int", 4, False),
    ("atomicMax(ull, 1)", "INTEGER_MAX", "unsigned long long", 8, False),
    ("atomicInc(u, 1)", "INTEGER_INCREMENT", "unsigned int", 4, False),
    ("atomicDec(u, 1)", "INTEGER_DECREMENT", "unsigned int", 4, False),
    ("atomicAnd(x, 1)", "AND", "int", 4, False),
    ("atomicOr(u, 1)", "OR", "unsigned int", 4, False),
    ("atomicXor(ull, 1)", "XOR", "unsigned long long", 8, False),
    ("atomicCAS((unsigned short*)x, a, b)", "CAS", "unsigned short", 2, False),
    ("atomicCAS(x, 1, 2)", "CAS", "int", 4, True),
    ("atomicCAS((unsigned long long*)d, 1, 2)", "CAS", "unsigned long long", 8, True),
    ("atomicCAS((ulonglong2*)d, a, b)", "CAS", "", 16, True),
    ("atomicAdd((float4*)f, v)", "FLOAT_ADD", "float4", 16, False),
    ("atomicAdd((half2*)f, v)", "FLOAT_ADD", "__half2", 4, False),
    ("atomicAdd((__nv_bfloat16*)f, v)", "FLOAT_ADD", "__nv_bfloat16", 2, False),
    ("::atomicAdd((uint32_t*)x, 1)", "INTEGER_ADD", "unsigned int", 4, True),
    ("(atomicMax)(ull, 1)", "INTEGER_MAX", "unsigned long long", 8, False),
    ("(::atomicAdd)(x, 1)", "INTEGER_ADD", "int", 4, True),
]


@pytest.mark.parametrize(("text", "operation", "kind", "size", "over_pcie"), OPERATIONS)
def test_operations_and_types(text, operation, kind, size, over_pcie):
    site = only(body(text + ";"))
    assert (site.operation.name, site.bytes) == (operation, size)
    assert site.type == kind or not kind
    assert site.call in text and site.scope == (re.search(r"_(system|block)\(", text) or [0, "device"])[1]
    assert site.certain and not site.on_device and not site.returns_old
    told = {
        link.name: link.route(site.operation, site.bits, signed=site.signed, lanes=site.lanes).value
        for link in hmm.links()
    }
    assert told["pcie4"] == ("native" if over_pcie else "migrate")
    assert told["pcie3-noatomics"] == "migrate" and told["nvlink"] == "native"
    routes = {name: route.value for name, route in site.routes.items()}
    assert routes == (told if site.scope == "system" else dict.fromkeys(told, "device"))


def test_a_reference_of_a_type_to_be_deduced():
    (add, increment) = sites(body("cuda::atomic_ref r(*x); r.fetch_add(1); ++r;"))
    assert (add.call, add.arrays, add.scope, increment.call) == ("fetch_add", ("x",), "system", "++")
    assert add.type == "" and add.route is None and not add.certain


def test_signs_and_lines():
    found = sites(
        body(
            "\n\n atomicMin(x, 1);\n int old = atomicMax(u, 1u); use(old); (void)0, atomicOr(x, 1), atomicAnd(x, 1);"
        )
    )
    assert [(s.line, s.signed, s.returns_old) for s in found] == [
        (4, True, False), (5, False, True), (5, True, False), (5, True, False),
    ]  # fmt: skip


LIBRARY = [
    (
        "cuda::atomic_ref<int, cuda::thread_scope_system> r(x[0]); r.fetch_add(1)",
        "fetch_add INTEGER_ADD system x",
    ),
    ("cuda::atomic_ref<int> r{*x}; r.exchange(1)", "exchange EXCHANGE system x"),
    ("cuda::atomic_ref<int, cuda::thread_scope_block> r{x[1]}; ++r", "++ INTEGER_ADD block x"),
    ("cuda::std::atomic_ref<unsigned> r{u[1]}; r |= 2", "|= OR system u"),
    (
        "cuda::atomic_ref<unsigned, cuda::thread_scope_device>(u[i]).fetch_max(2)",
        "fetch_max INTEGER_MAX device u",
    ),
    ("cuda::atomic_ref(x[0]).fetch_add(1)", "fetch_add INTEGER_ADD system x"),
    ("cuda::atomic_ref{*d}.fetch_add(1)", "fetch_add FLOAT_ADD system d"),
    ("cuda::atomic_ref<int, cuda::thread_scope_device>{x[1]}.exchange(2)", "exchange EXCHANGE device x"),
    ("++cuda::atomic_ref(u[0])", "++ INTEGER_ADD system u"),
    ("(cuda::atomic_ref<int>(*y)) -= 2", "-= INTEGER_ADD system y"),
    ("auto r = cuda::atomic_ref<int>(y[0]); auto s = r; s.fetch_sub(1)", "fetch_sub INTEGER_ADD system y"),
    ("using R = cuda::atomic_ref<double>; R r(d[1]); r.fetch_add(1.0)", "fetch_add FLOAT_ADD system d"),
    (
        "int e; cuda::atomic_ref<int> r{*y}; r.compare_exchange_strong(e, 1)",
        "compare_exchange_strong CAS system y",
    ),
    ("cuda::atomic_ref<float> r{f[0]}; r.fetch_min(1)", "fetch_min CAS system f"),
    ("cuda::atomic_ref<char> r{*(char*)x}; r.fetch_or(1)", "fetch_or CAS system x"),
    ("((cuda::atomic<int>*)x)->fetch_add(1)", "fetch_add INTEGER_ADD system x"),
    ("auto a = (cuda::atomic<int, cuda::thread_scope_device>*)x; a[3]--", "-- INTEGER_ADD device x"),
]


@pytest.mark.parametrize(("text", "told"), LIBRARY)
def test_libcudacxx(text, told):
    site = only(body(text + ";"))
    assert f"{site.call} {site.operation.name} {site.scope} {', '.join(site.arrays)}" == told
    assert site.certain


def test_loads_stores_and_plain_arithmetic_are_no_sites():
    assert (
        sites(body("cuda::atomic_ref<int> r{*x}; r.load(); r.store(1); ++x[1]; x[2] += 3; y[0] |= 1;")) == []
    )


# -- memory -----------------------------------------------------------------------------------------------------------

MEMORY = [
    ("atomicAdd(x + 3, 1);", "x"),
    ("atomicAdd(&x[y[2]], 1);", "x"),
    ("int* p = x; p += 4; ++p; atomicAdd(p, 1);", "x"),
    ("int* p; p = y; atomicAdd(p + min(a, b), 1);", "y"),
    ("auto p = static_cast<int*>(x); auto& r = p[3]; atomicAdd(&r, 1);", "x"),
    ("atomicAdd((int*)((size_t)x + 4 * threadIdx.x), 1);", "x"),
    ("int* p = c ? x : y; atomicAdd(p, 1);", "x, y (?)"),
    ("for (int* p = x; p < y; ++p) atomicAdd(p, 1);", "x"),
    ("auto add = [&](int* p) { atomicAdd(p, 1); }; add(y);", "y"),
    ("__shared__ int s[4]; int* p = s + 1; atomicAdd(p, 1);", "s (__shared__)"),
    ("extern __shared__ int s[]; atomicAdd(&s[1], 1);", "s (__shared__)"),
    ("int mine = 0; atomicAdd(&mine, 1);", "mine (local)"),
    ("atomicAdd(((int**)d)[1], 1);", "*d"),
    ("atomicAdd(nothing, 1);", "?"),
    ("atomicAdd(*find(d), 1);", "?"),
]


@pytest.mark.parametrize(("text", "memory"), MEMORY)
def test_memory(text, memory):
    site = only(body(text))
    assert ", ".join(site.arrays) + (" (?)" if len(site.arrays) > 1 else "") == memory
    assert site.certain == (len(site.arrays) == 1 and memory != "?")
    local = memory.endswith(("(__shared__)", "(local)"))
    assert site.on_device == local
    scope = {"native", "migrate"} if "_system" in text else {"device"}
    assert {route.value for route in site.routes.values()} == ({"local"} if local else scope)


def test_variables_of_the_module():
    code = "__device__ int v; __managed__ int m; __device__ int* p; __constant__ int* c[2];" + body(
        "atomicAdd(&v, 1); atomicAdd(&m, 1); atomicAdd(p, 1); atomicAdd(c[1], 1);"
    )
    told = [(s.arrays[0], s.on_device) for s in sites(code)]
    assert told == [("v (__device__)", True), ("m (__managed__)", False), ("*p", False), ("*c", False)]


def test_pointers_in_structures():
    code = """
struct Node { int count; Node* next; };
struct View { double* data; struct { unsigned* hits; } inner; int own[3]; };
__global__ void k(View v, View* w, Node* root) {
  atomicAdd(v.data + 1, 2.0);
  atomicAdd(&v.inner.hits[3], 1u);
  atomicAdd(&w->own[1], 1);
  atomicAdd(w->data, 1.0);
  for (Node* n = root; n; n = n->next) atomicAdd(&n->count, 1);
  View mine = {v.data}; mine.inner.hits = w->inner.hits;
  atomicAdd(mine.data, 1.0);
}"""
    told = [(s.type, ", ".join(s.arrays)) for s in sites(code)]
    assert told == [
        ("double", "v.data"), ("unsigned int", "v.inner.hits"), ("int", "w"), ("double", "*w"), ("int", "*root, root"),
        ("double", "*w, v.data"),
    ]  # fmt: skip


def test_structures_are_passed_on():
    code = """
struct Map { unsigned* depth; float* weight; };
__device__ void weigh(const Map& map) { atomicAdd(map.weight, 1.0f); }
__device__ void splat(Map map, int pixel) { atomicMin(&map.depth[pixel], 3u); weigh(map); }
__global__ void k(Map map, unsigned* far) {
  Map copy = map, other{far, nullptr};
  splat(copy, 1); splat(Map{far, nullptr}, 2);
  atomicMax(other.depth, 1u);
}"""
    assert {(s.line, s.type, ", ".join(s.arrays)) for s in sites(code)} == {
        (3, "float", "map.weight"), (3, "float", "far"), (4, "unsigned int", "map.depth"), (4, "unsigned int", "far"),
        (8, "unsigned int", "far"),
    }  # fmt: skip


# -- functions --------------------------------------------------------------------------------------------------------


def test_helpers_are_followed_with_their_arguments():
    code = """
__device__ int* at(int* base, int i) { return base + i; }
template <class T> __device__ void raise_to(T* to, T value) { atomicMax(to, value); }
__device__ void toggle(int& bit) { atomicXor(&bit, 1); }
__device__ void unused(int* p) { atomicInc((unsigned*)p, 1u); }
__global__ void k(int* x, long long* big, int* y) {
  __shared__ int s[4];
  raise_to(big, 3ll); raise_to<int>(s, 2);
  toggle(x[1]); toggle(*at(y, 3));
  atomicAnd(at(x, 2), 1);
}"""
    told = [(s.function, s.line, s.operation.name, s.type, s.arrays[0]) for s in sites(code)]
    assert told == [
        ("raise_to", 3, "INTEGER_MAX", "long long", "big"), ("raise_to", 3, "INTEGER_MAX", "int", "s (__shared__)"),
        ("toggle", 4, "XOR", "int", "x"), ("toggle", 4, "XOR", "int", "y"), ("k", 10, "AND", "int", "x"),
    ]  # fmt: skip


def test_macros():
    code = """
#define BUMP(x, n) atomicAdd_system(&(x), n)
#define APPLY(op, ...) atomic##op(__VA_ARGS__)
#if __CUDA_ARCH__ < 600
__device__ double atomicAdd(double* a, double v) { atomicCAS((unsigned long long*)a, 1, 2); return v; }
#endif
__global__ void k(int* x, double* d) {
  BUMP(x[1], 2);
  APPLY(Or, x,
        3); atomicAdd(d, 1.0);
}"""
    told = [(s.line, s.call, s.arrays[0]) for s in sites(code)]
    assert told == [(8, "atomicAdd_system", "x"), (9, "atomicOr", "x"), (10, "atomicAdd", "d")]


def test_an_overload_of_the_users_is_looked_into():
    code = """
__device__ float atomicMin(float* a, float v) { return __int_as_float(atomicCAS((int*)a, 1, 2)); }
__global__ void k(float* f, int* x) { atomicMin(f, 1.0f); atomicMin(x, 1); }"""
    told = [(s.function, s.call, s.type, s.arrays[0]) for s in sites(code)]
    assert told == [("atomicMin", "atomicCAS", "int", "f"), ("k", "atomicMin", "int", "x")]


def test_cudas_own_beside_an_overload_of_the_users():
    code = """
__device__ float atomicMin(float* a, float v) { return __int_as_float(::atomicMin((int*)a, __float_as_int(v))); }
__global__ void k(float* f, int* x) { atomicMin(f, 1.0f); ::atomicMin(x, 1); (atomicMin)(x, 1); }"""
    told = [(s.function, s.call, s.type, s.arrays[0]) for s in sites(code)]
    assert told == [
        ("atomicMin", "atomicMin", "int", "f"), ("k", "atomicMin", "int", "x"), ("k", "atomicMin", "int", "x"),
    ]  # fmt: skip


def test_overloads_and_default_arguments():
    code = """
__device__ void add(int* p, int n = 1) { atomicAdd(p, n); }
__device__ void add(float* p, float v = 1) { atomicAdd(p, v); }
__device__ void add(int* p, int* q, int n) { atomicSub(p, n); atomicSub(q, n); }
__global__ void k(int* x, float* f) { add(x); add(f, 2.0f); add(x, x, 3); }"""
    assert [(s.line, s.type, s.arrays[0]) for s in sites(code)] == [
        (2, "int", "x"), (3, "float", "f"), (4, "int", "x"), (4, "int", "x"),
    ]  # fmt: skip


def test_methods_and_templates_of_classes():
    code = """
template <typename T> struct Sum { T* to; int n; __device__ void add(T v) { atomicAdd(to + n, v); } };
struct Guard { int* c; __device__ Guard(int* x) : c(x) {} __device__ ~Guard() { atomicSub(c, 1); } };
struct Add { int* to; __device__ void operator()(int v) const { atomicAdd(to, v); } };
__global__ void k(Sum<float> a, float* f, int* x, Add call) {
  a.add(1.0f);
  Sum<float> mine{f, 0}; Sum<float>* p = &mine; p->add(2.0f);
  Guard guard(x);
  call(3);
}"""
    told = {(s.function, s.type, s.arrays[0]) for s in sites(code)}
    assert told == {
        ("Sum::add", "float", "a.to"), ("Sum::add", "float", "f"), ("Guard::~Guard", "int", "x"),
        ("Add::operator()", "int", "call.to"),
    }  # fmt: skip


def test_what_is_reached_by_a_pointer_is_not_certain():
    code = """
__device__ void one(int* p) { atomicAdd(p, 1); }
__device__ void two(int* p) { atomicSub(p, 1); }
__global__ void k(int* x, int which) { void (*f)(int*) = which ? one : two; f(x); }"""
    assert [(s.function, s.arrays, s.certain) for s in sites(code)] == [
        ("one", ("?",), False),
        ("two", ("?",), False),
    ]


@pytest.mark.timeout(20)
def test_recursion_ends():
    code = """
__device__ void odd(int* a, int n);
__device__ void even(int* a, int n) { if (n) odd(a + 1, n - 1); atomicAdd(a, 1); }
__device__ void odd(int* a, int n) { if (n) even(a + 1, n - 1); }
__device__ int* pick(int* a, int* b, int n) { return n ? n > 3 ? a : pick(b, a, n - 1) : pick(pick(b, b, 1), b, n - 2); }
__device__ int* other(int* a, int* b, int n) { return n > 3 ? pick(other(a, b, n), other(b, a, n), n) : a; }
__global__ void k(int* x, int* y) { even(y, 3); int* p = x; p = p + (p - y); atomicSub(p, 1); atomicOr(other(x, y, 3), 1); }"""
    first, second, third = sites(code)
    assert (first.function, first.arrays, second.arrays) == ("even", ("y",), ("x",))
    assert {"x", "y"} <= set(third.arrays) and not third.certain


# -- kernels and templates --------------------------------------------------------------------------------------------

TWO = """
namespace ns {
template <typename T, int N> __global__ void bump(T* to) { atomicAdd(to + N, T(1)); }
__global__ void other(int* x) { atomicMin(x, 1); }
}
__global__ void plain(int* x) {}"""


def test_one_kernel_or_all():
    module = hmm.RawModule(TWO, name_expressions=["ns::bump<float, 3>", "ns::bump<double, 1>"])
    assert [(s.kernel, s.type) for s in module.atomics()] == [
        ("ns::bump<float, 3>", "float"), ("ns::bump<double, 1>", "double"), ("ns::other", "int"),
    ]  # fmt: skip
    assert [s.type for s in module.get_function("ns::bump<double, 1>").atomics()] == ["double"]
    assert [s.type for s in module.get_function("other").atomics()] == ["int"]
    assert module.get_function("plain").atomics() == []
    assert only(TWO, "ns::bump<unsigned, 2>").type == "unsigned int"


def test_a_template_without_its_arguments():
    site = only(TWO, "bump")
    assert (site.type, site.bytes, site.certain, site.arrays) == ("", 0, False, ("to",))
    assert set(site.routes.values()) == {hmm.Route.DEVICE}
    site = only(TWO.replace("atomicAdd(", "atomicAdd_system("), "bump")
    assert set(site.routes.values()) == {None} and site.route is None


def test_a_kernel_that_is_not_there():
    with pytest.raises(
        hmm.ArgumentError, match="no kernel 'nosuch' in this source; it has: ns::bump, ns::other, plain"
    ):
        sites(TWO, "nosuch")
    with pytest.raises(hmm.ArgumentError, match="it has: none"):
        sites("__device__ int x;", "nosuch")


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", list(hmm.Fallback))
def test_every_link_and_fallback(fallback):
    (site,) = sites(body("atomicMin_system(x, 1);"), link="pcie3", fallback=fallback)
    assert (site.link, site.fallback) == ("pcie3", fallback)
    assert set(site.routes) == {link.name for link in hmm.links()}
    for link in hmm.links():
        assert site.routes[link.name] is link.route(site.operation, 32, signed=True, fallback=fallback)
    assert site.route is site.routes["pcie3"]


def test_a_link_of_ones_own():
    flags = {hmm.AtomicOperation.INTEGER_MIN: hmm.AtomicCapability.UNSIGNED | hmm.AtomicCapability.SCALAR_32}
    link = hmm.Link("mine", 1e9, 1e-6, 1e-6, hmm.Link.capabilities(flags))
    signed, unsigned = sites(
        body("atomicMin_system(x, 1); atomicMin_system(u, 1u);"), link=link, fallback="fault"
    )
    assert (signed.route, unsigned.route) == (hmm.Route.FAULT, hmm.Route.NATIVE)
    assert signed.to_dict()["routes"]["mine"] == {"route": "fault", "verdict": "broken"}


def test_bad_links():
    kernel = hmm.RawKernel(TWO, "plain")
    with pytest.raises(hmm.ArgumentError, match="no link 'agp'"):
        kernel.atomics(link="agp")
    with pytest.raises(hmm.ArgumentError, match="no fallback 'hope'"):
        kernel.atomics(fallback="hope")


def test_wrong_source():
    with pytest.raises(hmm.CompileError, match=r"kernel\.cu:1: #error no"):
        sites("#error no\n")
    wrong = "__global__ void k(int* x) { int y = ; if x { } atomicAdd(x, 1); }"  # the parser copes
    assert only(wrong).arrays == ("x",)


def test_without_a_compiler_and_without_a_device(tmp_path):
    program = (
        "import hmmemu as hmm\n"
        "k = hmm.RawKernel('__global__ void k(int* x) { atomicXor_system(x, 1); }', 'k')\n"
        "print([(s.call, s.route.value) for s in k.atomics('pcie5', 'exclusive')])\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "CXX"} | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.stdout == "[('atomicXor_system', 'exclusive')]\n", done.stderr


@pytest.mark.timeout(60)
def test_a_tangle_ends():
    """Pointers that are made of each other, through functions that call each other: much to look into, not for ever."""
    count = 40
    helpers = "template <class T> __device__ T mix(T a, T b, int n);\n" + "".join(
        f"template <class T> __device__ T mix{i}(T a, T b, int n) {{ T c = a; if (n) c = mix{(i * 3 + 1) % 8}(b, c, n - 1); return n > 2 ? c : mix{(i + 3) % 8}(a, c, n); }}\n"
        for i in range(8)
    )
    text = "".join(f"int* p{i} = x; " for i in range(count)) + "for (;;) {" + "".join(
        f"p{i} = mix{i % 8}(p{(i + 1) % count}, p{i * 7 % count}, i); " for i in range(count)
    ) + "}"  # fmt: skip
    code = (
        helpers + f"__global__ void k(int* x, int* y, int i) {{ {text} p3 = y; atomicAdd(p{count - 1}, 1); }}"
    )
    site = only(code)
    assert {"x", "y"} & set(site.arrays) or site.arrays == ("?",)
    assert site.type == "int"
