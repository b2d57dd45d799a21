// Sorting: networks in shared and in global memory, one pass of a radix sort, a merge.

// Bitonic sort of one block; the direction is a parameter.
extern "C" __global__ void bitonic_block(unsigned* keys, unsigned* values, int ascending) {
  __shared__ unsigned k[1024], v[1024];
  const unsigned n = 2 * blockDim.x, t = threadIdx.x;
  k[t] = keys[blockIdx.x * n + t], k[t + blockDim.x] = keys[blockIdx.x * n + t + blockDim.x];
  v[t] = values[blockIdx.x * n + t], v[t + blockDim.x] = values[blockIdx.x * n + t + blockDim.x];
  for (unsigned size = 2; size <= n; size <<= 1) {
    unsigned direction = ascending ^ ((t & (size / 2)) != 0 && size < n);
    for (unsigned stride = size / 2; stride > 0; stride >>= 1) {
      __syncthreads();
      unsigned i = 2 * t - (t & (stride - 1)), j = i + stride;
      if ((k[i] > k[j]) == direction) {
        unsigned swap = k[i];
        k[i] = k[j], k[j] = swap;
        swap = v[i], v[i] = v[j], v[j] = swap;
      }
    }
  }
  __syncthreads();
  for (int i = t; i < n; i += blockDim.x) {
    keys[blockIdx.x * n + i] = k[i];
    values[blockIdx.x * n + i] = v[i];
  }
}

// One step of a bitonic sort over global memory; the host loops.
template <typename T> __device__ inline void compare_exchange(T& a, T& b, bool up) {
  if ((a > b) == up) {
    T kept = a;
    a = b;
    b = kept;
  }
}
extern "C" __global__ void bitonic_step(float* x, int j, int k) {
  unsigned i = threadIdx.x + blockDim.x * blockIdx.x, partner = i ^ j;
  if (partner > i) compare_exchange(x[i], x[partner], (i & k) == 0);
}

// Batcher's odd-even merge sort of a block.
extern "C" __global__ void odd_even_merge(short* data, int n) {
  extern __shared__ short part[];
  const int t = threadIdx.x;
  part[t] = data[blockIdx.x * n + t];
  part[t + n / 2] = data[blockIdx.x * n + t + n / 2];
  for (int size = 2; size <= n; size <<= 1) {
    int stride = size / 2, offset = t & (stride - 1);
    {
      __syncthreads();
      int i = 2 * t - (t & (stride - 1));
      compare_exchange(part[i], part[i + stride], true);
      stride >>= 1;
    }
    for (; stride > 0; stride >>= 1) {
      __syncthreads();
      int i = 2 * t - (t & (stride - 1));
      if (offset >= stride) compare_exchange(part[i - stride], part[i], true);
    }
  }
  __syncthreads();
  data[blockIdx.x * n + t] = part[t];
  data[blockIdx.x * n + t + n / 2] = part[t + n / 2];
}

// A radix sort by four bits: histograms of blocks, a scan, a stable scatter by ballots.
enum { RADIX_BITS = 4, RADIX = 1 << RADIX_BITS };
extern "C" __global__ void radix_count(const unsigned* keys, int n, int shift, unsigned* counts) {
  __shared__ unsigned local[RADIX];
  if (threadIdx.x < RADIX) local[threadIdx.x] = 0;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&local[keys[i] >> shift & (RADIX - 1)], 1u);
  __syncthreads();
  if (threadIdx.x < RADIX) counts[threadIdx.x * gridDim.x + blockIdx.x] = local[threadIdx.x];
}
extern "C" __global__ void radix_offsets(unsigned* counts, int n) {
  if (threadIdx.x || blockIdx.x) return;
  unsigned sum = 0;
  for (int i = 0; i < n; ++i) {
    unsigned count = counts[i];
    counts[i] = sum;
    sum += count;
  }
}
extern "C" __global__ __launch_bounds__(256, 4) void radix_scatter(const unsigned* keys, int n, int shift,
                                                                  const unsigned* offsets, unsigned* out) {
  __shared__ unsigned before[8][RADIX];  // keys of each digit in each warp, then in the warps before it
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool there = i < n;
  const unsigned key = there ? keys[i] : 0xffffffffu, digit = key >> shift & (RADIX - 1);
  unsigned rank = 0;
  for (unsigned d = 0; d < RADIX; ++d) {
    unsigned same = __ballot_sync(0xffffffffu, there && digit == d);
    if (digit == d) rank = __popc(same & ((1u << lane) - 1u));
    if (lane == 0) before[warp][d] = __popc(same);
  }
  __syncthreads();
  if (threadIdx.x < RADIX) {
    unsigned sum = 0;
    for (int w = 0; w < blockDim.x / 32; ++w) {
      unsigned count = before[w][threadIdx.x];
      before[w][threadIdx.x] = sum, sum += count;
    }
  }
  __syncthreads();
  if (there) out[offsets[digit * gridDim.x + blockIdx.x] + before[warp][digit] + rank] = key;
}

// Merge of two sorted lists: each thread finds its rank by binary search (a do/while, on purpose).
template <typename T, typename Less> __device__ int lower(const T* x, int n, T value, Less less) {
  int low = 0, high = n;
  if (n > 0) do {
      int middle = (low + high) >> 1;
      if (less(x[middle], value)) low = middle + 1;
      else high = middle;
    } while (low < high);
  return low;
}
extern "C" __global__ void merge_by_rank(const double* a, int na, const double* b, int nb, double* out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  auto less = [](double x, double y) { return x < y; };
  auto less_or_equal = [](double x, double y) { return x <= y; };
  if (i < na) out[i + lower(b, nb, a[i], less)] = a[i];
  else if (i < na + nb) out[i - na + lower(a, na, b[i - na], less_or_equal)] = b[i - na];
}

// An odd-even transposition sort that ends when nothing changes: a vote in a do/while with barriers.
extern "C" __global__ void transposition_sort(int* x, int n, int* rounds) {
  __shared__ int s[512];
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = x[i];
  __syncthreads();
  int count = 0, changed;
  do {
    changed = 0;
    for (int odd = 0; odd < 2; ++odd) {
      int i = 2 * threadIdx.x + odd;
      if (i + 1 < n && s[i] > s[i + 1]) {
        int kept = s[i];
        s[i] = s[i + 1], s[i + 1] = kept;
        changed = 1;
      }
      __syncthreads();
    }
    ++count;
  } while (__syncthreads_or(changed));
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = s[i];
  if (threadIdx.x == 0) *rounds = count;
}
