"""The workloads: valid CUDA, references checked against plain Python, and wrong results noticed."""

from __future__ import annotations

import heapq
import json
import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import nvrtc
import pytest

import hmmemu as hmm
import hmmemu.kernels
from hmmemu.kernels import SIZES, WORKLOADS
from hmmemu.kernels.workload import Launcher, Workload, blocks, compare

FOLDER = Path(hmmemu.kernels.__file__).parent


class PlainMemory:
    """Stands in for an address space where only arrays are made."""

    empty = staticmethod(np.empty)
    zeros = staticmethod(np.zeros)

    @staticmethod
    def register(array):
        return array


def prepared(name, seed=1):
    workload = WORKLOADS[name]
    data = workload.prepare(PlainMemory(), workload.sizes["tiny"], np.random.default_rng(seed))
    return workload.reference(data), data


# --- the sources -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [75, 90])
@pytest.mark.parametrize("name", WORKLOADS)
def test_source_is_valid_cuda(name, arch):
    workload = WORKLOADS[name]
    ptx = nvrtc.compile_to_ptx(
        workload.source, name=workload.path.name, arch=arch, expressions=workload.kernels
    )
    assert ptx.count(".entry") == len(workload.kernels)


def test_nvrtc_refuses_what_is_not_cuda():
    with pytest.raises(nvrtc.NvrtcError, match=r'bad\.cu\(1\): error: identifier "y" is undefined'):
        nvrtc.compile_to_ptx("__global__ void k(int* x) { *x = y; }", name="bad.cu")


def test_every_cu_file_is_a_workload():
    assert {path.stem for path in FOLDER.glob("*.cu")} - {"pages"} == set(WORKLOADS)  # pages.cu: for a GPU


@pytest.mark.parametrize("name", WORKLOADS)
def test_description_is_complete(name):
    workload = WORKLOADS[name]
    assert workload.name == name
    assert workload.pattern and "\n" not in workload.pattern
    assert tuple(workload.sizes) == SIZES
    assert workload.source.startswith("//")


def test_a_name_that_does_not_exist():
    with pytest.raises(KeyError):
        WORKLOADS["nosuch"]


# --- the references, against plain Python ------------------------------------------------------------------


def test_vector_add_reference():
    expected, data = prepared("vector_add")
    assert expected["c"].tolist() == [float(np.float32(x + y)) for x, y in zip(data.a, data.b, strict=True)]


def test_reduction_reference():
    expected, data = prepared("reduction")
    assert expected["sum"].tolist() == [math.fsum(data.tolist())]


def test_matmul_reference():
    expected, data = prepared("matmul")
    a, b = data.a.tolist(), data.b.tolist()
    product = [[sum(x * b[k][j] for k, x in enumerate(row)) for j in range(len(b[0]))] for row in a]
    assert expected["c"].tolist() == product


def test_histogram_reference():
    expected, image = prepared("histogram")
    counts = [0] * 4096
    for pixel in image.ravel().tolist():
        counts[pixel // 16] += 1
    assert expected["counts"].tolist() == counts


def test_sobel_reference():
    expected, image = prepared("sobel")
    height, width = image.shape
    pixels = image.tolist()

    def pixel(y, x):
        return pixels[min(max(y, 0), height - 1)][min(max(x, 0), width - 1)]

    for y in range(height):
        for x in range(width):
            dx = sum(w * (pixel(y + d, x + 1) - pixel(y + d, x - 1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            dy = sum(w * (pixel(y + 1, x + d) - pixel(y - 1, x + d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            assert expected["edges"][y, x] == np.float32(math.sqrt(dx * dx + dy * dy)), (y, x)


def test_spmv_reference():
    expected, data = prepared("spmv")
    starts = data.row_start.tolist()
    entries = list(zip(data.columns.tolist(), data.values.tolist(), strict=True))
    x = data.x.tolist()
    rows = [sum(v * x[c] for c, v in entries[a:b]) for a, b in pairwise(starts)]
    assert expected["y"].tolist() == rows
    assert 0 in np.diff(data.row_start), "an empty row belongs to the test"


def neighbours(graph, vertex):
    return graph.edges[graph.edge_start[vertex] : graph.edge_start[vertex + 1]].tolist()


@pytest.mark.parametrize("name", ["bfs", "bfs_switch"])
def test_bfs_reference(name):
    expected, data = prepared(name)
    graph = getattr(data, "graph", data)
    level = [-1] * graph.vertices
    level[graph.source], queue = 0, [graph.source]
    for vertex in queue:
        for neighbour in neighbours(graph, vertex):
            if level[neighbour] < 0:
                level[neighbour] = level[vertex] + 1
                queue.append(neighbour)
    assert expected["level"].tolist() == level
    assert -1 in level and max(level) > 2, "unreachable vertices and several levels belong to the test"


def test_sssp_reference():
    expected, data = prepared("sssp")
    unreached = 2**31 - 1
    distance, queue = [unreached] * data.graph.vertices, [(0, data.graph.source)]
    while queue:  # Dijkstra's way: the nearest vertex is settled
        here, vertex = heapq.heappop(queue)
        if distance[vertex] == unreached:
            distance[vertex] = here
            first = data.graph.edge_start[vertex]
            for place, neighbour in enumerate(neighbours(data.graph, vertex), first):
                heapq.heappush(queue, (here + int(data.weights[place]), neighbour))
    assert expected["distance"].tolist() == distance
    assert unreached in distance and 0 < data.weights.min() < data.weights.max()


def test_ransac_reference():
    expected, data = prepared("ransac")
    points = list(zip(data.x.tolist(), data.y.tolist(), strict=True))
    counts = []
    for i, j in data.samples.tolist():
        (x0, y0), (x1, y1) = points[i], points[j]
        square = (x1 - x0) ** 2 + (y1 - y0) ** 2
        areas = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in points]
        counts.append(sum(area * area > 16 * square for area in areas) if square else len(points))
    assert expected["far"].tolist() == counts
    best = counts.index(min(counts))
    assert expected["best"].tolist() == [counts[best] << 32 | best]
    assert counts[best] < 0.7 * len(points) < max(counts), "a good line and bad ones belong to the test"


def test_a_line_through_one_point_is_far_from_all():
    workload = WORKLOADS["ransac"]
    data = workload.prepare(PlainMemory(), {"points": 30, "iterations": 2}, np.random.default_rng(1))
    data.samples[0] = 7
    assert workload.reference(data)["far"][0] == 30


def test_kmeans_reference():
    expected, data = prepared("kmeans")
    points = data.points.T.tolist()
    centres = data.start.tolist()
    for _ in range(data.rounds):
        labels = []
        for point in points:
            distances = [sum((p - c) ** 2 for p, c in zip(point, centre, strict=True)) for centre in centres]
            labels.append(distances.index(min(distances)))
        for number in range(len(centres)):
            mine = [point for point, label in zip(points, labels, strict=True) if label == number]
            if mine:
                centres[number] = [math.floor(sum(c) / len(mine) + 0.5) for c in zip(*mine, strict=True)]
    assert expected["labels"].tolist() == labels
    assert expected["centres"].tolist() == centres


def test_jacobi_reference():
    expected, data = prepared("jacobi")
    grid, source = data.start.tolist(), data.source.tolist()
    n = len(grid)
    for _ in range(data.sweeps):
        new = [row[:] for row in grid]
        for y in range(1, n - 1):
            for x in range(1, n - 1):
                vertical, horizontal = grid[y - 1][x] + grid[y + 1][x], grid[y][x - 1] + grid[y][x + 1]
                new[y][x] = ((vertical + horizontal) + source[y][x]) * 0.25
        grid = new
    assert expected["grid"].tolist() == grid


def test_tree_walk_reference():
    expected, data = prepared("tree_walk")
    nodes = {}
    for pool in data.pools:
        for index, node in enumerate(pool.tolist()):
            nodes[pool.ctypes.data + index * pool.itemsize] = node
    visits = dict.fromkeys(nodes, 0)
    found = []
    for query in data.queries.tolist():
        address, value = data.root.ctypes.data, -1
        while address:
            visits[address] += 1
            key, left, right, stored, _ = nodes[address]
            if query == key:
                value = stored
                break
            address = left if query < key else right
        found.append(value)
    assert expected["found"].tolist() == found
    half = data.pools[0].size
    rank_address = [data.pools[s // half].ctypes.data + s % half * 32 for s in data.slot.tolist()]
    assert expected["visits"].tolist() == [visits[address] for address in rank_address]
    assert -1 in found and max(found) > 0, "hits and misses belong to the test"


def test_shared_histogram_reference():
    expected, image = prepared("shared_histogram")
    counts = [0] * 256
    for pixel in image.ravel().tolist():
        counts[pixel // 256] += 1
    assert expected["counts"].tolist() == counts


def test_task_queue_reference():
    expected, data = prepared("task_queue")
    x = data.x.tolist()
    sums = [
        sum(x[first + i] * (i + 1) for i in range(count)) % 2**32
        for first, count in zip(data.first.tolist(), data.count.tolist(), strict=True)
    ]
    assert expected["results"].tolist() == sums


def test_compaction_reference():
    expected, x = prepared("compaction")
    assert expected["kept"].tolist() == [value for value in x.tolist() if value]
    assert 0 in x


def test_padding_reference():
    expected, data = prepared("padding")
    values = iter(data.buffer.tolist())
    rows = [[next(values) for _ in range(data.columns)] + [0] * data.more for _ in range(data.rows)]
    assert expected["padded"].tolist() == rows


def test_transposition_reference():
    expected, data = prepared("transposition")
    tiles, columns = data.tiles.tolist(), data.columns
    turned = [[tiles[row * columns + column] for row in range(data.rows)] for column in range(columns)]
    assert expected["tiles"].tolist() == turned


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_seed_decides_the_data(name):
    def answer(seed):
        return {key: value.tobytes() for key, value in prepared(name, seed)[0].items()}

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


# --- runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_is_verified(name, hmm_space):
    outcome = WORKLOADS[name].run(hmm_space, "tiny")
    assert outcome.verified, outcome.mismatch
    assert (outcome.name, outcome.size, outcome.max_error, outcome.mismatch) == (name, "tiny", 0.0, "")
    assert outcome.launches >= 1 and outcome.kernel_seconds > 0 and outcome.bytes > 1000
    assert json.loads(json.dumps(outcome.to_dict()))["parameters"] == outcome.parameters


BROKEN = {
    "vector_add": ("a[i] + b[i]", "a[i] - b[i]"),
    "reduction": ("half >= 32", "half > 32"),
    "matmul": ("first += TILE", "first += TILE + 1"),
    "histogram": ("pixels[i] >> shift", "(pixels[i] + 1) >> shift"),
    "sobel": ("n - 1)", "n - 2)"),
    "spmv": ("values[i] * x[columns[i]]", "values[i] * x[columns[i] ^ 1]"),
    "bfs": ("-1, depth)", "-1, depth + (neighbour & 1))"),
    "kmeans": ("distance < best_distance", "distance <= best_distance + 1000"),
    "jacobi": ("* 0.25", "* 0.25000000001"),
    "tree_walk": ("key < node->key", "key <= node->key + 2"),
    "shared_histogram": ("pixels[i] >> 8", "pixels[i] >> 7"),
    "task_queue": ("x[first + i]", "x[first]"),
    "compaction": ("if (value != 0)", "if (value % 256 != 0)"),
    "padding": ("row * more", "row * more / 2"),
    "transposition": ("x[to * TILE + t] = mine", "x[to * TILE + (t ^ 1)] = mine"),
    "bfs_switch": ("-1, depth)", "-1, depth + (neighbour & 1))"),
    "sssp": ("here + weights[e];", "here + weights[e] + 1;"),
    "ransac": ("> line.limit", ">= line.limit - 100000"),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_wrong_kernel_is_noticed(name, hmm_space, monkeypatch):
    workload = WORKLOADS[name]
    right, wrong = BROKEN[name]
    assert workload.source.count(right) == 1
    monkeypatch.setattr(Workload, "source", workload.source.replace(right, wrong))
    outcome = workload.run(
        hmm_space, "tiny", fraction=0 if workload.shares else None
    )  # the device does it all
    assert not outcome.verified
    assert "expected" in outcome.mismatch


@pytest.mark.parametrize("name", ["bfs_switch", "sssp"])
@pytest.mark.parametrize("switch", [0, 1000])
def test_either_side_can_do_all_turns(name, switch, hmm_space, monkeypatch):
    workload = WORKLOADS[name]
    monkeypatch.setitem(workload.sizes["tiny"], "switch", switch)
    outcome = workload.run(hmm_space, "tiny")
    assert outcome.verified, outcome.mismatch
    assert outcome.launches > 4 if switch == 0 else outcome.launches == 0


def test_two_devices_share_the_work():
    with hmm.AddressSpace(device="emulated", devices=2) as space:
        for workload in WORKLOADS.values():
            outcome = workload.run(space, "tiny")
            assert outcome.verified, (workload.name, outcome.mismatch)
        assert all(device.faults > 0 for device in space.stats().processors[1:])


def test_the_space_need_not_be_the_current_one(hmm_space):
    other = hmm.AddressSpace(device="emulated")
    try:
        for name in ("reduction", "kmeans"):  # a template, and a __constant__ variable
            outcome = WORKLOADS[name].run(other, "tiny")
            assert outcome.verified, outcome.mismatch
    finally:
        other.close()
    assert hmm_space.stats().transfers == []


SHARED = [name for name in WORKLOADS if WORKLOADS[name].shares]


@pytest.mark.parametrize("name", SHARED)
def test_the_fraction_decides_who_works(name, hmm_space):
    for fraction in (0, 0.25, 1):
        outcome = WORKLOADS[name].run(hmm_space, "tiny", fraction=fraction)
        assert outcome.verified, (fraction, outcome.mismatch)
        assert outcome.parameters["fraction"] == fraction
        assert outcome.launches == (fraction < 1)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_that_cannot_be(hmm_space, fraction):
    with pytest.raises(hmm.ArgumentError, match="the CPU's part of the work is 0 to 1"):
        WORKLOADS["compaction"].run(hmm_space, "tiny", fraction=fraction)


def test_a_fraction_where_nothing_is_shared(hmm_space):
    with pytest.raises(hmm.ArgumentError, match="matmul shares no work with the CPU"):
        WORKLOADS["matmul"].run(hmm_space, "tiny", fraction=0.5)


def test_unknown_size(hmm_space):
    with pytest.raises(hmm.ArgumentError, match="vector_add has no size 'huge'; choose one of tiny, small"):
        WORKLOADS["vector_add"].run(hmm_space, "huge")


def test_slices_cover_everything_once(hmm_space):
    with hmm.AddressSpace(device="emulated", devices=3) as space:
        launch = Launcher(space, WORKLOADS["vector_add"].module(), ())
        for count in (0, 1, 2, 3, 100):
            indices = [i for part in launch.slices(count) for i in range(part.start, part.stop)]
            assert indices == list(range(count))


TOGETHER = r"""
extern "C" __global__ void wait(volatile int* go, int* done) { while (*go == 0) { } *done = 1; }
extern "C" __global__ void broken(int* go, int* done) { if (*go == 0) *(volatile int*)16 = 1; }
"""


@pytest.fixture
def launcher(hmm_space):
    return Launcher(hmm_space, hmm.RawModule(TOGETHER), ("wait", "broken"))


def test_kernels_run_beside_the_cpu(hmm_space, launcher):
    go, done = hmm_space.zeros(1024, np.int32), hmm_space.zeros(1024, np.int32)
    with launcher.together(limit=20):
        launcher("wait", 1, 1, go, done)
        time.sleep(0.01)
        assert done[0] == 0
        go[0] = 1
        hmm_space.residency(go)  # a call of the library: tracker async notices the store
    assert done[0] == 1 and launcher.launches == 1 and launcher.seconds > 0.01


def test_kernels_that_nobody_ends_are_stopped(hmm_space, launcher):
    go, done = hmm_space.zeros(1024, np.int32), hmm_space.zeros(1024, np.int32)
    with pytest.raises(hmm.KernelTimeout), launcher.together(limit=0.1):
        launcher("wait", 1, 1, go, done)
    with pytest.raises(ZeroDivisionError), launcher.together():
        launcher("wait", 1, 1, go, done)
        raise ZeroDivisionError
    launcher("wait", 1, 1, hmm_space.full(1, 1, np.int32), done)
    assert done[0] == 1


def test_the_kernel_s_failure_comes_before_that_of_who_waited_for_it(hmm_space, launcher):
    go, done = hmm_space.zeros(1024, np.int32), hmm_space.zeros(1024, np.int32)
    with pytest.raises(hmm.KernelFault) as caught, launcher.together():
        launcher("broken", 1, 1, go, done)
        raise TimeoutError("it never came")
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_blocks():
    assert [blocks(count, 256) for count in (0, 1, 256, 257)] == [1, 1, 1, 2]


# --- comparing ------------------------------------------------------------------------------------------


def one(*values, dtype=np.float32):
    return {"x": np.array(values, dtype)}


def test_equal_arrays():
    assert compare(one(1, np.nan), one(1, np.nan)) == (0.0, "")


def test_first_difference_and_largest_error():
    error, words = compare(one(1, 5, 3), one(1, 2, 4))
    assert (error, words) == (3.0, "x[1] is 5.0, expected 2.0 (2 of 3 differ)")


def test_index_in_two_dimensions():
    got, right = {"m": np.zeros((2, 3), int)}, {"m": np.zeros((2, 3), int)}
    got["m"][1, 2] = -9
    assert compare(got, right) == (9.0, "m[1, 2] is -9, expected 0 (1 of 6 differ)")


def test_signed_zero_is_a_difference():
    error, words = compare(one(-0.0), one(0.0))
    assert error == 0.0 and words == "x[0] is -0.0, expected 0.0 (1 of 1 differ)"


def test_not_a_number_is_an_infinite_error():
    assert compare(one(np.nan), one(1))[0] == math.inf


def test_other_shape_and_type():
    assert compare(one(1, 2), one(1)) == (math.inf, "x is float32[2], expected float32[1]")
    assert compare(one(1), one(1, dtype=np.float64)) == (math.inf, "x is float32[1], expected float64[1]")
