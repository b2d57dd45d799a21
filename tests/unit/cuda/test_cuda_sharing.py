"""Which arguments of a kernel stay in host memory on a GPU: told by the source and the link, without a GPU."""

from __future__ import annotations

import pytest

from hmmemu.arguments import Parameter
from hmmemu.cuda_sharing import NOTHING, find_sharing
from hmmemu.kernels import WORKLOADS
from hmmemu.link_names import find_link

SOURCE = r"""
struct Map { int* depth; };
__device__ int look(volatile int* word) { return *word; }
extern "C" __global__ void plain(int* x, const int* y) { x[0] = y[0]; atomicAdd(x, 1); }
extern "C" __global__ void count(int* hits, int* x) { atomicAdd_system(hits, 1); x[0] = 1; }
extern "C" __global__ void lowest(int* low, int* hits) { atomicMin_system(low, 1); atomicAdd_system(hits, 1); }
extern "C" __global__ void both(int* x) { atomicMin_system(x, 1); atomicAdd_system(x, 1); }
extern "C" __global__ void wait(int* flag, int* data, const int* __restrict__ table) {
  while (look(flag) == 0) { }
  data[0] = table[0];
}
extern "C" __global__ void most(float* x, float v) {  // others end this loop, and not the CPU
  int* p = (int*)x;
  int seen = *p, was;
  do { was = seen; seen = atomicCAS(p, was, __float_as_int(v)); } while (seen != was);
}
extern "C" __global__ void behind(int** root, Map map) { atomicAdd_system(*root, 1); atomicMin_system(map.depth, 1); }
template <class T> __global__ void add(T* x) { atomicAdd_system(x, T(1)); }
__global__ void here(int* x) { __shared__ int s; atomicAdd_system(&s, 1); x[0] = s; }
"""


def parameter(name, kind="T*", const=False):
    return Parameter(name, kind, 0, 8, "pointer", False, const, 4)


def shared(kernel, *names, link="pcie4", **how):
    found = find_sharing(SOURCE, kernel, find_link(link), **how)
    return [name for name in names if found.with_cpu(parameter(name))]


@pytest.mark.parametrize(
    ("kernel", "link", "expected"),
    [
        ("plain", "nvlink", []),  # not of system scope
        ("count", "pcie4", ["hits"]),
        ("count", "pcie3-noatomics", []),
        ("lowest", "pcie4", ["hits"]),
        ("lowest", "nvlink", ["low", "hits"]),
        ("both", "pcie4", []),  # one of two is lacking: the CPU waits
        ("both", "nvlink", ["x"]),
        ("wait", "pcie3-noatomics", ["flag", "data", "table"]),  # loads and stores work on every link
        ("most", "nvlink", []),
        ("here", "nvlink", []),
    ],
)
def test_what_is_shared(kernel, link, expected):
    names = ["x", "y", "hits", "low", "flag", "data", "table"]
    assert sorted(shared(kernel, *names, link=link)) == sorted(
        names if expected and kernel == "wait" else expected
    )


def test_what_is_constant_while_a_kernel_waits_is_copied():
    found = find_sharing(SOURCE, "wait", find_link("pcie4"))
    assert not found.with_cpu(parameter("table", "const int* __restrict__", const=True))
    assert found.with_cpu(parameter("table", "const int*", const=True))


def test_memory_that_no_argument_leads_to():
    pcie, all_of_them = (find_sharing(SOURCE, "behind", find_link(name)) for name in ("pcie4", "nvlink"))
    assert not pcie.with_cpu(None)  # it may be the map, where an operation is lacking
    assert all_of_them.with_cpu(None) and not all_of_them.with_cpu(parameter("root"))
    assert find_sharing(SOURCE, "wait", find_link("pcie4")).with_cpu(None)
    assert not find_sharing(SOURCE, "count", find_link("pcie4")).with_cpu(None)


def test_an_instance_of_a_template():
    for expression, expected in (("add<int>", ["x"]), ("add<float>", [])):
        assert shared(expression, "x", name_expressions=[expression]) == expected


def test_a_kernel_that_the_source_does_not_show():
    assert find_sharing(SOURCE, "nosuch", find_link("pcie4")) == NOTHING


def test_the_workloads():
    found = {
        (name, kernel): find_sharing(w.source, kernel, find_link("pcie4"), name_expressions=w.kernels)
        for name, w in WORKLOADS.items()
        for kernel in w.kernels
    }
    waiting = {name for (name, _), sharing in found.items() if sharing.waits}
    assert waiting == {"task_queue", "compaction", "padding", "ransac"}
    assert found["shared_histogram", "count"].native == {"counts", "counter"}
    assert found["sssp", "relax"].lacking == {"distance"}
    assert found["tree_walk", "tree_walk"] == NOTHING
