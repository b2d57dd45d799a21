// CUDA's names for what `hmm_ctx` does. Last, because these are macros.
//
// Where no local `hmm_c` is in scope (default arguments, initialisers of members) the names at namespace
// scope ask hmm_here(); the rewriter makes those kernels keep their thread index stored.
#pragma once
namespace {
#define HMM_ANYWHERE(name, field, member)                                                                    \
  struct hmm_anywhere_##name##_##member {                                                                    \
    HMM_INLINE operator unsigned() const { return hmm_here().field.member; }                                 \
  };
#define HMM_ANYWHERE3(name, field)                                                                           \
  HMM_ANYWHERE(name, field, x)                                                                               \
  HMM_ANYWHERE(name, field, y)                                                                               \
  HMM_ANYWHERE(name, field, z)                                                                               \
  const struct {                                                                                             \
    hmm_anywhere_##name##_x x{};                                                                             \
    hmm_anywhere_##name##_y y{};                                                                             \
    hmm_anywhere_##name##_z z{};                                                                             \
  } name{};
HMM_ANYWHERE3(threadIdx, thread)
HMM_ANYWHERE3(blockIdx, block)
HMM_ANYWHERE3(blockDim, block_dim)
HMM_ANYWHERE3(gridDim, grid_dim)
#undef HMM_ANYWHERE3
#undef HMM_ANYWHERE
const int warpSize = HMM_WARP;
} // namespace

// A spin: the rewriter puts it into loops that wait for memory to change.
#define HMM_SPIN() hmm_c.spin()
// A turn of a loop that may wait for other blocks, and may as well be at work.
#define HMM_TURN(turns)                                                                                      \
  do                                                                                                         \
    if ((++turns & 1023) == 0) hmmemu_worker_self->services->yield(hmmemu_worker_self);                      \
  while (0)

#define __syncthreads() hmm_c.sync()
#define __syncthreads_count(...) hmm_c.sync_count(__VA_ARGS__)
#define __syncthreads_and(...) hmm_c.sync_and(__VA_ARGS__)
#define __syncthreads_or(...) hmm_c.sync_or(__VA_ARGS__)
#define __syncwarp(...) hmm_c.syncwarp(__VA_ARGS__)
#define __activemask() hmm_c.activemask(__COUNTER__)
#define __shfl_sync(...) hmm_c.shfl(__VA_ARGS__)
#define __shfl_up_sync(...) hmm_c.shfl_up(__VA_ARGS__)
#define __shfl_down_sync(...) hmm_c.shfl_down(__VA_ARGS__)
#define __shfl_xor_sync(...) hmm_c.shfl_xor(__VA_ARGS__)
#define __ballot_sync(...) hmm_c.ballot(__VA_ARGS__)
#define __any_sync(...) hmm_c.any(__VA_ARGS__)
#define __all_sync(...) hmm_c.all(__VA_ARGS__)
#define __match_any_sync(...) hmm_c.match_any(__VA_ARGS__)
#define __match_all_sync(...) hmm_c.match_all(__VA_ARGS__)
#define __reduce_add_sync(...) hmm_c.reduce(HMM_OP_ADD, __VA_ARGS__)
#define __reduce_min_sync(...) hmm_c.reduce(HMM_OP_MIN, __VA_ARGS__)
#define __reduce_max_sync(...) hmm_c.reduce(HMM_OP_MAX, __VA_ARGS__)
#define __reduce_and_sync(...) hmm_c.reduce(HMM_OP_AND, __VA_ARGS__)
#define __reduce_or_sync(...) hmm_c.reduce(HMM_OP_OR, __VA_ARGS__)
#define __reduce_xor_sync(...) hmm_c.reduce(HMM_OP_XOR, __VA_ARGS__)
