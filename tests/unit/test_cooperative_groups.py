"""<cooperative_groups.h>: what kernels make of it beside NumPy, and that NVIDIA's own header takes the same sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loader import Module

from hmmemu.compiler import compile_module
from hmmemu.errors import CompileError

SOURCE = r"""
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;
extern "C" __global__ void total(const int* x, int* out, int n) {
  __shared__ int parts[32];
  cg::thread_block block = cg::this_thread_block();
  auto tile = cg::tiled_partition<32>(block);
  auto grid = cg::this_grid();
  int v = 0;
  for (unsigned long long i = grid.thread_rank(); i < n; i += grid.size()) v += x[i];
  v = cg::reduce(tile, v, cg::plus<int>());
  if (tile.thread_rank() == 0) parts[tile.meta_group_rank()] = v;
  block.sync();
  if (tile.meta_group_rank() != 0) return;
  v = tile.thread_rank() < tile.meta_group_size() ? parts[tile.thread_rank()] : 0;
  for (int i = tile.num_threads() / 2; i > 0; i /= 2) v += tile.shfl_xor(v, i);
  if (tile.thread_rank() == 0) atomicAdd(out, v);
}
extern "C" __global__ void filter(const int* x, int* out, int* count) {
  int i = cg::this_grid().thread_rank(), first = 0;
  if (x[i] <= 0) return;
  cg::coalesced_group active = cg::coalesced_threads();
  if (active.thread_rank() == 0) first = atomicAdd(count, active.size());
  out[active.shfl(first, 0) + active.thread_rank()] = x[i];
}
template <int N> __device__ void votes(cg::thread_block_tile<N> tile, unsigned r, unsigned* out) {
  int same;
  out[0] = tile.ballot(tile.thread_rank() % 2);
  out[1] = tile.any(r == 9);
  out[2] = tile.all(r < 8);
  out[3] = tile.match_any(r % 4);
  out[4] = tile.shfl(r, 3);
  out[5] = tile.shfl_up(r, 1);
  out[6] = tile.shfl_down(r, 1);
  out[7] = tile.shfl_xor(r, 2);
  out[8] = cg::reduce(tile, r, cg::greater<unsigned>());
  out[9] = cg::reduce(tile, r, cg::less<unsigned>());
  out[10] = tile.match_all(r / 8, same) + same;
  out[11] = tile.meta_group_rank() * 100 + tile.meta_group_size();
  tile.sync();
}
extern "C" __global__ void eights(unsigned* out) {
  cg::thread_block block = cg::this_thread_block();
  unsigned r = block.thread_rank();
  votes<8>(cg::tiled_partition<8>(block), r, out + 12 * r);
  cg::sync(block);
}
extern "C" __global__ void places(unsigned* out) {
  cg::thread_block b = cg::this_thread_block();
  cg::grid_group g = cg::this_grid();
  unsigned* o = out + 6 * g.thread_rank();
  o[0] = g.block_rank(), o[1] = b.thread_rank(), o[2] = b.size(), o[3] = g.num_blocks();
  o[4] = b.group_index().y, o[5] = b.thread_index().z * 100 + b.dim_threads().y;
}
extern "C" __global__ void plain(int* x) { x[threadIdx.x] = 1; }
"""


@pytest.fixture(scope="module")
def module() -> Module:
    return Module(SOURCE)


def test_a_sum_by_tiles_and_blocks(module: Module) -> None:
    x, out = np.arange(100_001, dtype=np.int32) % 17, np.zeros(1, np.int32)
    module.kernel("total")(20, 256, x, out, x.size)
    assert out[0] == x.sum()


def test_threads_that_run_together(module: Module) -> None:
    x = np.random.default_rng(0).integers(-5, 5, 1024, dtype=np.int32)
    out, count = np.zeros(1024, np.int32), np.zeros(1, np.int32)
    module.kernel("filter")(4, 256, x, out, count)
    assert count[0] == (x > 0).sum() and np.array_equal(np.sort(out[: count[0]]), np.sort(x[x > 0]))


def test_every_operation_of_a_tile(module: Module) -> None:
    out = np.zeros((64, 12), np.uint32)
    module.kernel("eights")(1, (16, 4), out)
    for r, found in enumerate(out):
        base, rank = r // 8 * 8, r % 8
        before, behind = (r - 1 if rank else r), (r + 1 if rank < 7 else r)
        assert list(found) == [
            0b10101010, base == 8, base == 0, 0b10001 << r % 4, base + 3, before, behind, r ^ 2,
            base + 7, base, 0xFF + 1, r // 8 * 100 + 8,
        ]  # fmt: skip


def test_ranks_and_sizes(module: Module) -> None:
    out = np.zeros((3 * 2 * 24, 6), np.uint32)
    module.kernel("places")((3, 2), (4, 3, 2), out)
    block, thread = np.divmod(np.arange(len(out)), 24)
    wanted = [block, thread, 24 + 0 * block, 6 + 0 * block, block // 3, thread // 12 * 100 + 3]
    assert np.array_equal(out, np.transpose(wanted))


def test_a_kernel_without_groups_stays_fast(module: Module) -> None:
    x = np.zeros(32, np.int32)
    module.kernel("plain")(1, 32, x)
    assert x.all() and module.kernel("plain").mode == "loop"


def test_a_barrier_of_the_grid_is_told() -> None:
    code = "#include <cooperative_groups.h>\n__global__ void k() { cooperative_groups::this_grid().sync(); }"
    with pytest.raises(
        CompileError, match="a barrier of the whole grid is not there: make a kernel of each part"
    ):
        compile_module(code)


def test_nvidias_header_takes_the_same_source() -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'hmmemu[cuda12]'")
    from hmmemu import cuda_compile

    folders = [Path(option.removeprefix("-I")) for option in cuda_compile._folders()]
    if not any((folder / "cooperative_groups.h").exists() for folder in folders):
        pytest.skip("CUDA's headers are absent: pip install nvidia-cuda-runtime-cu12")
    cuda_compile.compile_module(SOURCE, (8, 0))
