// Linear algebra, particles, graphs, sparse matrices, random numbers.

// N bodies: tiles of positions in shared memory; float4 with the mass in w.
__device__ float3 pull(float4 on, float4 from, float3 a, float softening) {
  float3 r = make_float3(from.x - on.x, from.y - on.y, from.z - on.z);
  float d2 = r.x * r.x + r.y * r.y + r.z * r.z + softening;
  float s = from.w * rsqrtf(d2 * d2 * d2);
  a.x += r.x * s, a.y += r.y * s, a.z += r.z * s;
  return a;
}
extern "C" __global__ void n_body(const float4* __restrict__ bodies, float4* acceleration, int n, float softening) {
  extern __shared__ float4 others[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float4 mine = bodies[i];
  float3 a = {0.0f, 0.0f, 0.0f};
  for (int first = 0, tile = 0; first < n; first += blockDim.x, ++tile) {
    others[threadIdx.x] = bodies[tile * blockDim.x + threadIdx.x];
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < blockDim.x; j++) a = pull(mine, others[j], a, softening);
    __syncthreads();
  }
  acceleration[i] = make_float4(a.x, a.y, a.z, 0.0f);
}

// Matrix multiplication: a tile of registers a thread; sizes are template parameters.
template <typename T, int BM, int BN, int BK, int TM> __global__ void gemm(int m, int n, int k, T alpha, const T* a, const T* b, T beta, T* c) {
  __shared__ T as[BK][BM], bs[BK][BN];
  const int row = threadIdx.x / BN * TM, column = threadIdx.x % BN, r0 = blockIdx.y * BM, c0 = blockIdx.x * BN;
  T sums[TM] = {};
  for (int k0 = 0; k0 < k; k0 += BK) {
    for (int i = threadIdx.x; i < BM * BK; i += blockDim.x) {
      int y = i / BK, x = i % BK;
      as[x][y] = r0 + y < m && k0 + x < k ? a[(r0 + y) * k + k0 + x] : T(0);
    }
    for (int i = threadIdx.x; i < BK * BN; i += blockDim.x) {
      int y = i / BN, x = i % BN;
      bs[y][x] = k0 + y < k && c0 + x < n ? b[(k0 + y) * n + c0 + x] : T(0);
    }
    __syncthreads();
    for (int x = 0; x < BK; ++x) {
      T right = bs[x][column];
      for (int i = 0; i < TM; ++i) sums[i] += as[x][row + i] * right;
    }
    __syncthreads();
  }
  for (int i = 0; i < TM; ++i)
    if (r0 + row + i < m && c0 + column < n) {
      T& to = c[(r0 + row + i) * n + c0 + column];
      to = alpha * sums[i] + beta * to;
    }
}

// LU decomposition without pivoting of one tile, in place, in shared memory.
extern "C" __global__ void lu_tile(double* a, int n) {
  __shared__ double s[16][17];
  int t = threadIdx.x;
  double* mine = a + blockIdx.x * n * n;
  for (int i = 0; i < n; ++i) s[i][t] = mine[i * n + t];
  __syncthreads();
  for (int i = 0; i < n - 1; ++i) {
    if (t > i) s[t][i] /= s[i][i];
    __syncthreads();
    if (t > i)
      for (int j = i + 1; j < n; ++j) s[t][j] -= s[t][i] * s[i][j];
    __syncthreads();
  }
  for (int i = 0; i < n; ++i) mine[i * n + t] = s[i][t];
}

// Floyd and Warshall, one step of the outer loop a launch; and a whole small graph in one block.
extern "C" __global__ void shorten(int* distance, int n, int k) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
  __shared__ int through;
  if (threadIdx.x == 0) through = distance[y * n + k];
  __syncthreads();
  if (x < n && x != k && y != k) atomicMin(&distance[y * n + x], through + distance[k * n + x]);
}

// Sparse matrix times vector: ELLPACK, COO with atomics, CSR with a warp a row.
extern "C" __global__ void spmv_ell(int rows, int width, const int* columns, const float* values, const float* x, float* y) {
  int row = blockDim.x * blockIdx.x + threadIdx.x;
  if (row >= rows) return;
  float dot = 0;
  for (int i = 0; i < width; i++) {
    int column = columns[rows * i + row];
    if (column < 0) continue;
    dot += values[rows * i + row] * __ldg(&x[column]);
  }
  y[row] += dot;
}
extern "C" __global__ void spmv_coo(int count, const int* rows, const int* columns, const double* values, const double* x, double* y) {
  for (int i = blockDim.x * blockIdx.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    atomicAdd(y + rows[i], values[i] * x[columns[i]]);
}
extern "C" __global__ void spmv_csr_warp(int rows, const int* starts, const int* columns, const float* values, const float* x, float* y) {
  int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (warp >= rows) return;
  float sum = 0;
  for (int i = starts[warp] + lane; i < starts[warp + 1]; i += 32) sum += values[i] * x[columns[i]];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_down_sync(0xffffffffu, sum, d);
  if (lane == 0) y[warp] = sum;
}

// Monte Carlo: a xorshift state a thread, kept in memory between launches; and an LCG with skips.
struct Xorshift {
  unsigned int x, y, z, w;
  __device__ unsigned int next() {
    unsigned int t = x ^ (x << 11);
    x = y, y = z, z = w;
    return w = w ^ (w >> 19) ^ t ^ (t >> 8);
  }
  __device__ float uniform() { return next() * 2.3283064365386963e-10f; }
};
extern "C" __global__ void pi_hits(Xorshift* states, unsigned* hits, int draws) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  Xorshift random = states[i];
  unsigned mine = 0;
  for (int n = 0; n < draws; ++n) {
    float x = random.uniform(), y = random.uniform();
    if (x * x + y * y < 1.0f) ++mine;
  }
  states[i] = random;
  hits[i] = mine;
}
extern "C" __global__ void lcg_skip(unsigned long long seed, unsigned long long* out, int n) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x, power = i;
  if (i >= n) return;
  unsigned long long a = 6364136223846793005ULL, c = 1442695040888963407ULL, skip_a = 1, skip_c = 0;
  for (; power; power >>= 1) {
    if (power & 1) skip_a *= a, skip_c = skip_c * a + c;
    c *= a + 1, a *= a;
  }
  out[i] = skip_a * seed + skip_c;
}

// Options: the Black-Scholes formula; double special functions.
__device__ __host__ inline float normal_cdf(float d) { return 0.5f * erfcf(-d * 0.7071067811865475f); }
extern "C" __global__ void black_scholes(float2* __restrict__ out, const float* __restrict__ s, const float* __restrict__ x,
                                         const float* __restrict__ t, float r, float v, int n) {
  const int i = blockDim.x * blockIdx.x + threadIdx.x;
  if (i >= n) return;
  float root = sqrtf(t[i]), d1 = __fdividef(logf(s[i] / x[i]) + (r + 0.5f * v * v) * t[i], v * root), d2 = d1 - v * root;
  float discount = expf(-r * t[i]), c1 = normal_cdf(d1), c2 = normal_cdf(d2);
  out[i] = make_float2(s[i] * c1 - x[i] * discount * c2, x[i] * discount * (1.0f - c2) - s[i] * (1.0f - c1));
}
extern "C" __global__ void special(const double* x, double* out, int n) {
  int i = threadIdx.x;
  if (i >= n) return;
  double s, c;
  sincos(x[i], &s, &c);
  int exponent;
  double fraction = frexp(x[i], &exponent);
  out[i] = fma(s, s, c * c) + lgamma(x[i] + 1) + cbrt(x[i]) + hypot(x[i], 3.0) + ldexp(fraction, exponent) + (isnan(x[i]) ? nan("") : 0.0);
}

// Histograms: private to a warp in shared memory, merged; values of 8 bits read four at a time.
extern "C" __global__ void histogram_warps(const uchar4* in, int n, unsigned int* bins) {
  __shared__ unsigned int of_warp[4 * 256];
  unsigned int* mine = of_warp + (threadIdx.x >> 5) * 256;
  for (int i = threadIdx.x; i < 4 * 256; i += blockDim.x) of_warp[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) {
    uchar4 four = in[i];
    atomicAdd(mine + four.x, 1u), atomicAdd(mine + four.y, 1u), atomicAdd(mine + four.z, 1u), atomicAdd(mine + four.w, 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    unsigned int sum = 0;
    for (int w = 0; w < 4; ++w) sum += of_warp[i + w * 256];
    if (sum) atomicAdd(&bins[i], sum);
  }
}
