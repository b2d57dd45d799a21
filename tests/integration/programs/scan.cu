// Scans, reductions and compaction: the parallel primitives that every CUDA course begins with.

// Hillis and Steele: inclusive, two buffers in dynamic shared memory.
extern "C" __global__ void hillis_steele(const int* in, int* out, int n) {
  extern __shared__ int buffers[];
  int t = threadIdx.x, from = 0, to = 1;
  buffers[t] = t < n ? in[t] : 0;
  __syncthreads();
  for (int offset = 1; offset < blockDim.x; offset *= 2) {
    int* source = buffers + from * blockDim.x;
    int* target = buffers + to * blockDim.x;
    target[t] = t >= offset ? source[t] + source[t - offset] : source[t];
    from = 1 - from, to = 1 - to;
    __syncthreads();
  }
  if (t < n) out[t] = buffers[from * blockDim.x + t];
}

// Blelloch: exclusive, up-sweep and down-sweep, with padding against bank conflicts.
#define BANK(i) ((i) + ((i) >> 5))
extern "C" __global__ void blelloch(const float* in, float* out, float* total, int n) {
  extern __shared__ float tree[];
  const int t = threadIdx.x, half = n >> 1;
  const int a = t, b = t + half;
  tree[BANK(a)] = in[a];
  tree[BANK(b)] = in[b];
  int offset = 1;
  for (int d = half; d > 0; d >>= 1) {
    __syncthreads();
    if (t < d) {
      int left = offset * (2 * t + 1) - 1, right = offset * (2 * t + 2) - 1;
      tree[BANK(right)] += tree[BANK(left)];
    }
    offset <<= 1;
  }
  if (t == 0) {
    *total = tree[BANK(n - 1)];
    tree[BANK(n - 1)] = 0;
  }
  for (int d = 1; d < n; d <<= 1) {
    offset >>= 1;
    __syncthreads();
    if (t < d) {
      int left = offset * (2 * t + 1) - 1, right = offset * (2 * t + 2) - 1;
      float kept = tree[BANK(left)];
      tree[BANK(left)] = tree[BANK(right)];
      tree[BANK(right)] += kept;
    }
  }
  __syncthreads();
  out[a] = tree[BANK(a)];
  out[b] = tree[BANK(b)];
}

// By warp shuffles: a block, then all blocks (a scan of the blocks' sums), then the sums are added.
__device__ __forceinline__ unsigned warp_inclusive(unsigned value) {
  const unsigned lane = threadIdx.x % warpSize;
#pragma unroll
  for (int delta = 1; delta < 32; delta <<= 1) {
    unsigned below = __shfl_up_sync(0xffffffffu, value, delta);
    if (lane >= delta) value += below;
  }
  return value;
}

__device__ unsigned block_inclusive(unsigned value, unsigned* sums) {
  const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  value = warp_inclusive(value);
  if (lane == 31) sums[warp] = value;
  __syncthreads();
  if (warp == 0) sums[lane] = warp_inclusive(lane < blockDim.x / 32 ? sums[lane] : 0);
  __syncthreads();
  return value + (warp ? sums[warp - 1] : 0);
}

extern "C" __global__ void scan_blocks(const unsigned* in, unsigned* out, unsigned* sums, int n) {
  __shared__ unsigned of_warps[32];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned scanned = block_inclusive(i < n ? in[i] : 0, of_warps);
  if (i < n) out[i] = scanned;
  if (sums && threadIdx.x == blockDim.x - 1) sums[blockIdx.x] = scanned;
}

extern "C" __global__ void add_sums(unsigned* out, const unsigned* sums, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (blockIdx.x > 0 && i < n) out[i] += sums[blockIdx.x - 1];
}

// Reduction by type and block size; the last warp is unrolled over volatile shared memory.
template <typename T, int N> __device__ void finish_warp(volatile T* s, int t) {
  T x = s[t];
  if (N >= 64) { x += s[t + 32]; __syncwarp(); s[t] = x; __syncwarp(); }
  if (N >= 32) { x += s[t + 16]; __syncwarp(); s[t] = x; __syncwarp(); }
  if (N >= 16) { x += s[t + 8]; __syncwarp(); s[t] = x; __syncwarp(); }
  if (N >= 8) { x += s[t + 4]; __syncwarp(); s[t] = x; __syncwarp(); }
  if (N >= 4) { x += s[t + 2]; __syncwarp(); s[t] = x; __syncwarp(); }
  if (N >= 2) { x += s[t + 1]; __syncwarp(); s[t] = x; __syncwarp(); }
}

template <typename T, int N> __global__ void dot(const T* __restrict__ x, const T* __restrict__ y, T* out, int n) {
  __shared__ T s[N + 32];
  const int t = threadIdx.x;
  T mine = T();
  for (int i = blockIdx.x * N + t; i < n; i += gridDim.x * N) mine += x[i] * y[i];
  s[t] = mine;
  if (t < 32) s[N + t] = T();
  __syncthreads();
  if (N >= 512) { if (t < 256) s[t] += s[t + 256]; __syncthreads(); }
  if (N >= 256) { if (t < 128) s[t] += s[t + 128]; __syncthreads(); }
  if (N >= 128) { if (t < 64) s[t] += s[t + 64]; __syncthreads(); }
  if (t < 32) finish_warp<T, N>(s, t);
  if (t == 0) out[blockIdx.x] = s[0];
}

// One launch: the block that finishes last adds what all blocks left.
__device__ unsigned int blocks_done = 0;
extern "C" __global__ void sum_in_one_launch(const float* in, double* partial, double* result, int n) {
  __shared__ double s[128];
  __shared__ bool last;
  double mine = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) mine += in[i];
  s[threadIdx.x] = mine;
  for (int half = blockDim.x / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
  }
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = s[0];
    __threadfence();
    unsigned int ticket = atomicInc(&blocks_done, gridDim.x);
    last = ticket == gridDim.x - 1;
  }
  __syncthreads();
  if (last) {
    double sum = 0;
    for (int i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += ((volatile double*)partial)[i];
    s[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half >>= 1) {
      if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      *result = s[0];
      blocks_done = 0;
    }
  }
}

// A segmented sum: values with head flags; pairs are combined in a block-wide scan.
struct Pair {
  float value;
  int head;
  __device__ Pair(float v, int h) : value(v), head(h) {}
  __device__ Pair operator+(const Pair& right) const {
    return Pair(right.head ? right.value : value + right.value, head | right.head);
  }
};
extern "C" __global__ void segmented_scan(const float* in, const unsigned char* heads, float* out) {
  __shared__ float values[256];
  __shared__ int flags[256];
  const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  Pair mine(in[i], heads[i]);
  values[t] = mine.value, flags[t] = mine.head;
  for (int d = 1; d < blockDim.x; d *= 2) {
    __syncthreads();
    Pair left(0, 0);
    if (t >= d) left = Pair(values[t - d], flags[t - d]);
    __syncthreads();
    if (t >= d) mine = left + mine;
    values[t] = mine.value;
    flags[t] = mine.head;
  }
  out[i] = mine.value;
}

// Stream compaction: order is kept within a warp by ballot and popc, one atomicAdd a warp.
extern "C" __global__ void compact(const int* in, int n, int limit, int* out, int* count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  bool keep = i < n && in[i] > limit;
  unsigned kept = __ballot_sync(0xffffffff, keep);
  int lane = threadIdx.x & 31, base = 0;
  if (lane == 0 && kept) base = atomicAdd(count, __popc(kept));
  base = __shfl_sync(0xffffffff, base, 0);
  if (keep) out[base + __popc(kept & ((1u << lane) - 1))] = in[i];
}

// Atomics aggregated over whichever lanes of a warp take part.
__device__ int add_one_aggregated(int* counter) {
  unsigned active = __activemask();
  int leader = __ffs(active) - 1, lane = threadIdx.x & 31, base;
  if (lane == leader) base = atomicAdd(counter, __popc(active));
  base = __shfl_sync(active, base, leader);
  return base + __popc(active & ((1u << lane) - 1));
}
extern "C" __global__ void take_tickets(const int* in, int n, int* counter, int* tickets) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    if (in[i] % 3 == 0) tickets[i] = add_one_aggregated(counter);
}

// __match_any_sync: one atomic for each distinct key of a warp.
extern "C" __global__ void count_keys(const int* keys, int n, unsigned* counts) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned taking = __ballot_sync(~0u, i < n);
  if (i >= n) return;
  unsigned peers = __match_any_sync(taking, keys[i]);
  if ((threadIdx.x & 31) == __ffs(peers) - 1) atomicAdd(&counts[keys[i]], __popc(peers));
}

// Reductions in segments of 8 and 16 lanes.
template <int Width> __global__ void row_maxima(const float* x, float* out) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  float v = x[t];
  for (int d = Width / 2; d; d /= 2) v = fmaxf(v, __shfl_down_sync(0xffffffff, v, d, Width));
  float of_row = __shfl_sync(0xffffffff, v, 0, Width);
  out[t] = of_row - __shfl_xor_sync(0xffffffff, x[t], 1, Width);
}
