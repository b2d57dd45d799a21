// The kernels that `hmmemu bench kernels` and `bench launch` time: plain CUDA as it is written for a
// GPU, nothing turned to suit a CPU. native/kernels.cpp has the same work as loops.

constexpr int TILE = 16;
constexpr int BLOCK = 256;

extern "C" __global__ void empty() {}

extern "C" __global__ void empty_pointers(const float* a, const float* b, float* c, int n) {}

// Keeps the device busy while the launches to be timed are queued behind it.
extern "C" __global__ void wait_ticks(long long ticks) {
  long long start = clock64();
  while (clock64() - start < ticks) {
  }
}

extern "C" __global__ void read_clock(long long* now) { *now = clock64(); }

extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n)
    y[i] = a * x[i] + y[i];
}

extern "C" __global__ void stencil(int n, const float* x, float* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i > 0 && i < n - 1)
    y[i] = 0.25f * x[i - 1] + 0.5f * x[i] + 0.25f * x[i + 1];
}

extern "C" __global__ void matmul(int n, const float* a, const float* b, float* c) {
  int row = blockIdx.y * blockDim.y + threadIdx.y;
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < n && column < n) {
    float sum = 0.f;
    for (int k = 0; k < n; ++k)
      sum += a[row * n + k] * b[k * n + column];
    c[row * n + column] = sum;
  }
}

extern "C" __global__ void tiled(int n, const float* a, const float* b, float* c) {
  __shared__ float as[TILE][TILE];
  __shared__ float bs[TILE][TILE];
  int tx = threadIdx.x, ty = threadIdx.y;
  int row = blockIdx.y * TILE + ty, column = blockIdx.x * TILE + tx;
  float sum = 0.f;
  for (int t = 0; t < (n + TILE - 1) / TILE; ++t) {
    as[ty][tx] = row < n && t * TILE + tx < n ? a[row * n + t * TILE + tx] : 0.f;
    bs[ty][tx] = column < n && t * TILE + ty < n ? b[(t * TILE + ty) * n + column] : 0.f;
    __syncthreads();
    for (int k = 0; k < TILE; ++k)
      sum += as[ty][k] * bs[k][tx];
    __syncthreads();
  }
  if (row < n && column < n)
    c[row * n + column] = sum;
}

// One sum a block, by a tree in shared memory.
extern "C" __global__ void reduce(int n, const float* x, float* sums) {
  __shared__ float part[BLOCK];
  unsigned t = threadIdx.x;
  unsigned i = blockIdx.x * blockDim.x + t;
  part[t] = i < n ? x[i] : 0.f;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half >>= 1) {
    if (t < half)
      part[t] += part[t + half];
    __syncthreads();
  }
  if (t == 0)
    sums[blockIdx.x] = part[0];
}

extern "C" __global__ void histogram(int n, const unsigned char* data, unsigned* counts) {
  __shared__ unsigned mine[BLOCK];
  mine[threadIdx.x] = 0;
  __syncthreads();
  int stride = blockDim.x * gridDim.x;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
    atomicAdd(&mine[data[i]], 1u);
  __syncthreads();
  atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
}

// Barriers in the general way: the condition is the thread's own, so nothing proves to a compiler that
// all threads go through the loop together. Neighbours trade values, so that a barrier left out shows.
extern "C" __global__ void barriers(int n, const int* last, int* out) {
  __shared__ int box[2][BLOCK];
  int t = threadIdx.x;
  box[0][t] = t;
  for (int i = 0; i < n + last[t]; ++i) {
    __syncthreads();
    box[(i + 1) & 1][t] = box[i & 1][(t + 1) & (BLOCK - 1)] + 1;
  }
  __syncthreads();
  out[blockIdx.x * BLOCK + t] = box[n & 1][t];
}
