// CUDA's cooperative groups (<cooperative_groups.h>), as far as a block reaches: the block, tiles of a warp,
// threads that run together; of the grid only ranks and sizes.
//
// This is CUDA C++ in terms of CUDA's own intrinsics, and is compiled like a header of the user's: what it
// mentions decides how the kernels that use it run. Interface: CUDA C++ Programming Guide, "Cooperative
// Groups".
#pragma once

namespace cooperative_groups {

class thread_block {
 public:
  static __device__ void sync() { __syncthreads(); }
  static __device__ unsigned thread_rank() {
    return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  }
  static __device__ unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
  static __device__ unsigned size() { return num_threads(); }
  static __device__ dim3 group_index() { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
  static __device__ dim3 thread_index() { return dim3(threadIdx.x, threadIdx.y, threadIdx.z); }
  static __device__ dim3 dim_threads() { return dim3(blockDim.x, blockDim.y, blockDim.z); }
  static __device__ dim3 group_dim() { return dim_threads(); }
};
__device__ inline thread_block this_thread_block() { return thread_block(); }

class grid_group {
 public:
  static __device__ unsigned long long block_rank() {
    return ((unsigned long long)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  }
  static __device__ unsigned long long num_blocks() {
    return (unsigned long long)gridDim.x * gridDim.y * gridDim.z;
  }
  static __device__ unsigned long long thread_rank() {
    return block_rank() * thread_block::num_threads() + thread_block::thread_rank();
  }
  static __device__ unsigned long long num_threads() { return num_blocks() * thread_block::num_threads(); }
  static __device__ unsigned long long size() { return num_threads(); }
  static __device__ dim3 group_dim() { return dim3(gridDim.x, gridDim.y, gridDim.z); }
  static __device__ dim3 dim_blocks() { return group_dim(); }
  static __device__ dim3 block_index() { return dim3(blockIdx.x, blockIdx.y, blockIdx.z); }
  template <bool There = false> static void sync() {
    static_assert(There, "a barrier of the whole grid is not there: make a kernel of each part");
  }
};
__device__ inline grid_group this_grid() { return grid_group(); }

// Lanes of a warp, as a mask; what tiles and coalesced groups have in common. A rank is a lane's place among
// them.
class lane_group {
 public:
  __device__ unsigned thread_rank() const { return __popc(mask & ((1u << lane()) - 1)); }
  __device__ unsigned num_threads() const { return __popc(mask); }
  __device__ unsigned size() const { return __popc(mask); }
  __device__ void sync() const { __syncwarp(mask); }
  __device__ int any(int predicate) const { return __any_sync(mask, predicate); }
  __device__ int all(int predicate) const { return __all_sync(mask, predicate); }
  __device__ unsigned ballot(int predicate) const { return packed(__ballot_sync(mask, predicate)); }
  template <class T> __device__ unsigned match_any(T value) const {
    return packed(__match_any_sync(mask, value));
  }
  template <class T> __device__ unsigned match_all(T value, int& predicate) const {
    return packed(__match_all_sync(mask, value, &predicate));
  }
  template <class T> __device__ T shfl(T value, unsigned rank) const {
    return __shfl_sync(mask, value, lane_of(rank % size()));
  }
  template <class T> __device__ T shfl_up(T value, unsigned delta) const {
    unsigned rank = thread_rank();
    return __shfl_sync(mask, value, lane_of(rank < delta ? rank : rank - delta));
  }
  template <class T> __device__ T shfl_down(T value, unsigned delta) const {
    unsigned rank = thread_rank();
    return __shfl_sync(mask, value, lane_of(rank + delta < size() ? rank + delta : rank));
  }

 protected:
  explicit __device__ lane_group(unsigned lanes) : mask(lanes) {}
  static __device__ unsigned lane() { return thread_block::thread_rank() % 32; }
  // The lane of a rank, and lanes as ranks.
  __device__ unsigned lane_of(unsigned rank) const {
    unsigned rest = mask;
    for (; rank; --rank) rest &= rest - 1;
    return __ffs(rest) - 1;
  }
  __device__ unsigned packed(unsigned lanes) const {
    unsigned found = 0, rank = 0;
    for (unsigned rest = mask; rest; rest &= rest - 1, ++rank)
      found |= (lanes >> (__ffs(rest) - 1) & 1) << rank;
    return found;
  }
  unsigned mask;
};

template <unsigned Size, class Parent = void> class thread_block_tile : public lane_group {
  static_assert(Size && Size <= 32 && !(Size & (Size - 1)), "a tile has 1, 2, 4, 8, 16 or 32 threads");

 public:
  __device__ thread_block_tile()
      : lane_group((Size == 32 ? ~0u : (1u << Size % 32) - 1) << lane() / Size * Size) {}
  template <class Other>
  __device__ thread_block_tile(const thread_block_tile<Size, Other>&) : thread_block_tile() {}
  static __device__ unsigned meta_group_rank() { return thread_block::thread_rank() / Size; }
  static __device__ unsigned meta_group_size() { return (thread_block::num_threads() + Size - 1) / Size; }
  template <class T> __device__ T shfl_xor(T value, unsigned lanes) const {
    return __shfl_xor_sync(mask, value, lanes, Size);
  }
};
template <unsigned Size, class Parent>
__device__ inline thread_block_tile<Size, Parent> tiled_partition(const Parent&) {
  return thread_block_tile<Size, Parent>();
}

class coalesced_group : public lane_group {
 public:
  explicit __device__ coalesced_group(unsigned lanes) : lane_group(lanes) {}
};
__device__ inline coalesced_group coalesced_threads() { return coalesced_group(__activemask()); }

template <class Group> __device__ inline void sync(const Group& group) { group.sync(); }

} // namespace cooperative_groups
