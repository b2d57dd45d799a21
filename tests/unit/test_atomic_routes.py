"""Every operation on every type: the way that `Link.route` tells is the way that it goes, by the counts of a report."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

import hmmemu as hmm

INTEGERS = ("int", "unsigned", "long long", "unsigned long long")
FLOATS = ("float", "double", "__half", "__nv_bfloat16")
VECTORS = ("float2", "float4", "__half2", "__nv_bfloat162")


def expressions() -> Iterator[tuple[str, str]]:
    """(type, expression on `T* x`) for each that CUDA or libcu++ has."""
    for kind in (*INTEGERS[:2], INTEGERS[3], *FLOATS, *VECTORS):
        yield kind, "atomicAdd_system(x, *x)"
    for kind in ("int", "unsigned"):
        yield kind, "atomicSub_system(x, (T)1)"
    for kind in (*INTEGERS[:2], INTEGERS[3], "float"):
        yield kind, "atomicExch_system(x, (T)3)"
    for name, kinds in (
        ("Min", INTEGERS),
        ("Max", INTEGERS[:2]),
        ("And", INTEGERS[:1]),
        ("Or", INTEGERS[2:3]),
        ("Xor", INTEGERS[3:]),
    ):
        for kind in kinds:
            yield kind, f"atomic{name}_system(x, (T)3)"
    for name in ("Inc", "Dec"):
        yield "unsigned", f"atomic{name}_system(x, 100u)"
    for kind in (*INTEGERS[:2], INTEGERS[3], "ulonglong2"):
        yield kind, "atomicCAS_system(x, *x, *x)"
    yield "ulonglong2", "atomicExch_system(x, *x)"
    for kind, names in (
        ("signed char", ("fetch_add", "exchange")), ("unsigned short", ("fetch_max", "compare_exchange_weak")),
        ("int", ("fetch_sub", "fetch_min")), ("unsigned long long", ("fetch_or", "compare_exchange_strong")),
    ):  # fmt: skip
        for name in names:
            expected = "*y, " if "compare" in name else ""
            yield kind, f"cuda::atomic_ref<T>(*x).{name}({expected}(T)3)"
    for name in ("fetch_add", "fetch_min"):
        yield "float", f"cuda::atomic_ref<T>(*x).{name}((T)3)"
    yield "double", "cuda::atomic_ref<T>(*x).fetch_max((T)3)"
    yield "int", "++((cuda::atomic<T>*)x)[0]"
    for name in ("atomicAdd", "atomicAdd_block", "atomicMax"):
        yield "int", f"{name}(x, 1)"
    yield "unsigned short", "atomicCAS(x, *x, *x)"


CASES = list(dict.fromkeys(expressions()))
THREADS = 8
SOURCE = "#include <cuda/atomic>\n#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n" + "\n".join(
    re.sub(r"\bT\b", kind, f'extern "C" __global__ void k{i}(T* x) {{ T mine = *x, *y = &mine; {text}; }}')
    for i, (kind, text) in enumerate(CASES)
)
Op, Can = hmm.AtomicOperation, hmm.AtomicCapability
SOME = {
    Op.INTEGER_ADD: Can.SIGNED | Can.SCALAR_32 | Can.SCALAR_64,
    Op.INTEGER_MIN: Can.UNSIGNED | Can.SCALAR_32,
    Op.FLOAT_ADD: Can.SCALAR_32 | Can.SCALAR_16,
    Op.CAS: Can.SCALAR_32,
}
PARTLY = hmm.Link("partly", 1e9, 1e-6, 1e-5, hmm.Link.capabilities(SOME))
VECTORS_ONLY = hmm.Link("vectors", 1e9, 1e-6, 1e-5, hmm.Link.capabilities({Op.FLOAT_ADD: Can.VECTOR_32X4}))


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE)


@pytest.fixture(scope="module")
def told(module: hmm.RawModule) -> dict[str, hmm.AtomicSite]:
    return {site.kernel: site for site in module.atomics()}


def ways(route: hmm.Route) -> dict[str, int]:
    """What a block's operations on a page of the CPU's do."""
    if route in (hmm.Route.DEVICE, hmm.Route.MIGRATE):
        return {"there": THREADS - 1, "moved": 1}
    if route is hmm.Route.EXCLUSIVE:
        return {"there": THREADS - 1, "exclusive": 1}
    return {{"silent": "lost"}.get(route.value, route.value): 1 if route is hmm.Route.FAULT else THREADS}


@pytest.mark.parametrize(
    ("link", "fallback"),
    [
        ("pcie3-noatomics", "migrate"),
        ("pcie4", "migrate"),
        ("pcie4", "exclusive"),
        ("pcie4", "cas-loop"),
        ("pcie4", "silent"),
        ("nvlink", "migrate"),
        (PARTLY, "cas-loop"),
        (VECTORS_ONLY, "silent"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_is_told_is_what_runs(
    module: hmm.RawModule, told: dict[str, hmm.AtomicSite], link: hmm.Link | str, fallback: str
) -> None:
    policy = hmm.Policy(grow=False)
    with hmm.AddressSpace(link=link, fallback=fallback, policy=policy, workers=1, timeout=60) as space:
        pages = space.zeros((len(CASES), 4096), np.uint8)
        pages[:] = 1
        with space.atomics_report() as report:
            for i, page in enumerate(pages):
                try:
                    module.get_function(f"k{i}")((1,), (THREADS,), (page,))
                except hmm.KernelError:
                    assert space.link is PARTLY  # which has no compare-and-swap for some
        uses = {use.kernel: use for use in report.uses}
        assert len(uses) == len(report.uses) == len(CASES) and report.lost == 0
        for i, case in enumerate(CASES):
            use, site = uses[f"k{i}"], told[f"k{i}"]
            ran = use.operation, use.bits, use.lanes, use.type, use.scope, use.line, use.array, use.foreseen
            said = (
                site.operation, site.bits, site.lanes, site.type or use.type, site.scope, site.line,
                ", ".join(site.arrays), True,
            )  # fmt: skip
            assert ran == said, case
            route = hmm.Route.DEVICE
            if site.scope == "system":
                route = space.link.route(
                    site.operation, site.bits, signed=site.signed, lanes=site.lanes, fallback=fallback
                )
            assert (use.route, use.ways) == (route, ways(route)), case
