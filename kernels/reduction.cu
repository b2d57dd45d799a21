// Sum of an array in two launches of one template: every block sums a strided part of the input,
// then one block sums the partial sums. Access pattern: the input is read once, in order; a tree of
// halves in shared memory, then shuffles within a warp; one write a block.

constexpr int BLOCK = 256;

// The sum over the 32 threads of a warp, in its first thread.
__device__ double warp_sum(double value) {
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

template <typename T> __global__ void block_sum(const T* values, double* sums, int n) {
  __shared__ double part[BLOCK];
  int t = threadIdx.x;
  double sum = 0.0;
  for (int i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x)
    sum += values[i];
  part[t] = sum;
  __syncthreads();
  for (int half = BLOCK / 2; half >= 32; half /= 2) {
    if (t < half)
      part[t] += part[t + half];
    __syncthreads();
  }
  if (t < 32) {
    sum = warp_sum(part[t]);
    if (t == 0)
      sums[blockIdx.x] = sum;
  }
}
