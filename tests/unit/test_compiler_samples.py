"""Programs of the kinds that people write, each against NumPy."""

from __future__ import annotations

import numpy as np
from loader import Module

RNG = np.random.default_rng(11)


def test_blelloch_scan():
    code = r"""
    #define CONFLICT_FREE_OFFSET(n) ((n) >> 5)
    __global__ void prescan(float *g_odata, const float *g_idata, int n) {
      extern __shared__ float temp[];
      int thid = threadIdx.x, offset = 1;
      int ai = thid, bi = thid + (n / 2);
      int bankOffsetA = CONFLICT_FREE_OFFSET(ai), bankOffsetB = CONFLICT_FREE_OFFSET(bi);
      temp[ai + bankOffsetA] = g_idata[ai];
      temp[bi + bankOffsetB] = g_idata[bi];
      for (int d = n >> 1; d > 0; d >>= 1) {
        __syncthreads();
        if (thid < d) {
          int ai = offset * (2 * thid + 1) - 1, bi = offset * (2 * thid + 2) - 1;
          ai += CONFLICT_FREE_OFFSET(ai); bi += CONFLICT_FREE_OFFSET(bi);
          temp[bi] += temp[ai];
        }
        offset *= 2;
      }
      if (thid == 0) temp[n - 1 + CONFLICT_FREE_OFFSET(n - 1)] = 0;
      for (int d = 1; d < n; d *= 2) {
        offset >>= 1;
        __syncthreads();
        if (thid < d) {
          int ai = offset * (2 * thid + 1) - 1, bi = offset * (2 * thid + 2) - 1;
          ai += CONFLICT_FREE_OFFSET(ai); bi += CONFLICT_FREE_OFFSET(bi);
          float t = temp[ai]; temp[ai] = temp[bi]; temp[bi] += t;
        }
      }
      __syncthreads();
      g_odata[ai] = temp[ai + bankOffsetA];
      g_odata[bi] = temp[bi + bankOffsetB];
    }"""
    x = RNG.integers(0, 9, 1024).astype(np.float32)
    y = np.zeros_like(x)
    Module(code).kernel("prescan")(1, 512, y, x, 1024, shared=4 * 1100)
    np.testing.assert_array_equal(y, np.r_[0, np.cumsum(x)[:-1]])


def test_bitonic_sort_in_shared_memory():
    code = r"""
    __device__ inline void Comparator(unsigned &keyA, unsigned &keyB, unsigned dir) { unsigned t; if ((keyA > keyB) == dir) { t = keyA; keyA = keyB; keyB = t; } }
    template <unsigned SIZE> __global__ void bitonic(unsigned *d) {
      __shared__ unsigned s[SIZE];
      d += blockIdx.x * SIZE;
      s[threadIdx.x] = d[threadIdx.x]; s[threadIdx.x + SIZE / 2] = d[threadIdx.x + SIZE / 2];
      for (unsigned size = 2; size <= SIZE; size <<= 1) {
        unsigned ddd = ((threadIdx.x & (size / 2)) != 0) ^ 1;
        for (unsigned stride = size / 2; stride > 0; stride >>= 1) {
          __syncthreads();
          unsigned pos = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
          Comparator(s[pos], s[pos + stride], size == SIZE ? 1u : ddd);
        }
      }
      __syncthreads();
      d[threadIdx.x] = s[threadIdx.x]; d[threadIdx.x + SIZE / 2] = s[threadIdx.x + SIZE / 2];
    }"""
    x = RNG.integers(0, 2**32, (3, 512), dtype=np.uint32)
    want = np.sort(x, axis=1)
    Module(code, name_expressions=["bitonic<512>"]).kernel("bitonic<512>")(3, 256, x)
    np.testing.assert_array_equal(x, want)


def test_the_programming_guides_matrix_multiplication():
    code = r"""
    #define BLOCK_SIZE 16
    typedef struct { int width; int height; int stride; float* elements; } Matrix;
    __device__ float GetElement(const Matrix A, int row, int col) { return A.elements[row * A.stride + col]; }
    __device__ void SetElement(Matrix A, int row, int col, float value) { A.elements[row * A.stride + col] = value; }
    __device__ Matrix GetSubMatrix(Matrix A, int row, int col) {
      Matrix Asub; Asub.width = BLOCK_SIZE; Asub.height = BLOCK_SIZE; Asub.stride = A.stride;
      Asub.elements = &A.elements[A.stride * BLOCK_SIZE * row + BLOCK_SIZE * col];
      return Asub;
    }
    __global__ void MatMulKernel(Matrix A, Matrix B, Matrix C) {
      int blockRow = blockIdx.y; int blockCol = blockIdx.x;
      Matrix Csub = GetSubMatrix(C, blockRow, blockCol);
      float Cvalue = 0;
      int row = threadIdx.y; int col = threadIdx.x;
      for (int m = 0; m < (A.width / BLOCK_SIZE); ++m) {
        Matrix Asub = GetSubMatrix(A, blockRow, m); Matrix Bsub = GetSubMatrix(B, m, blockCol);
        __shared__ float As[BLOCK_SIZE][BLOCK_SIZE]; __shared__ float Bs[BLOCK_SIZE][BLOCK_SIZE];
        As[row][col] = GetElement(Asub, row, col); Bs[row][col] = GetElement(Bsub, row, col);
        __syncthreads();
        for (int e = 0; e < BLOCK_SIZE; ++e) Cvalue += As[row][e] * Bs[e][col];
        __syncthreads();
      }
      SetElement(Csub, row, col, Cvalue);
    }"""
    a, b = (RNG.integers(-3, 4, (48, 48)).astype(np.float32) for _ in range(2))
    c = np.zeros_like(a)
    dtype = np.dtype([("w", "i4"), ("h", "i4"), ("s", "i4"), ("p", "u8")], align=True)
    raw = [np.array((48, 48, 48, m.ctypes.data), dtype).tobytes() for m in (a, b, c)]
    kernel = Module(code).kernel("MatMulKernel")
    kernel((3, 3), (16, 16), *raw)
    np.testing.assert_array_equal(c, a @ b)
    assert kernel.mode == "fission"


def test_warp_per_row_sparse_product():
    code = r"""__global__ void spmv(int rows, const int *__restrict__ ptr, const int *__restrict__ col, const double *__restrict__ val, const double *x, double *y) {
      const int lane = threadIdx.x & 31, row = (blockIdx.x * blockDim.x + threadIdx.x) >> 5;
      if (row >= rows) return;
      double sum = 0;
      for (int j = ptr[row] + lane; j < ptr[row + 1]; j += 32) sum += val[j] * __ldg(&x[col[j]]);
      #pragma unroll
      for (int o = 16; o > 0; o >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, o);
      if (!lane) y[row] = sum;
    }"""
    dense = RNG.integers(-4, 5, (70, 90)) * (RNG.random((70, 90)) < 0.4)
    rows, cols = np.nonzero(dense)
    ptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=70))].astype(np.int32)
    x, y = RNG.integers(-5, 6, 90).astype(np.float64), np.zeros(70)
    Module(code).kernel("spmv")(
        18, 128, 70, ptr, cols.astype(np.int32), dense[rows, cols].astype(np.float64), x, y
    )
    np.testing.assert_array_equal(y, dense @ x)


def test_convolution_with_constant_weights_and_halo():
    code = r"""
    #define RADIUS 3
    #define TILE 64
    __constant__ float c_kernel[2 * RADIUS + 1];
    __global__ void conv(float *dst, const float *src, int n) {
      __shared__ float s[TILE + 2 * RADIUS];
      const int base = blockIdx.x * TILE;
      for (int k = threadIdx.x; k < TILE + 2 * RADIUS; k += blockDim.x) {
        int at = base + k - RADIUS;
        s[k] = (at >= 0 && at < n) ? src[at] : 0.0f;
      }
      __syncthreads();
      if (base + threadIdx.x < n) {
        float sum = 0;
    #pragma unroll
        for (int j = -RADIUS; j <= RADIUS; j++) sum += c_kernel[RADIUS - j] * s[threadIdx.x + RADIUS + j];
        dst[base + threadIdx.x] = sum;
      }
    }"""
    module = Module(code)
    weights = np.arange(1, 8, dtype=np.float32)
    module.variable("c_kernel", np.float32)[:] = weights
    x = RNG.integers(0, 10, 1000).astype(np.float32)
    y = np.zeros_like(x)
    module.kernel("conv")(16, 64, y, x, x.size)
    np.testing.assert_array_equal(y, np.convolve(x, weights, "same"))


def test_ray_spheres_with_operators_and_classes():
    code = r"""
    class vec3 {
     public:
      __host__ __device__ vec3() {}
      __host__ __device__ vec3(float a, float b, float c) { e[0] = a; e[1] = b; e[2] = c; }
      __host__ __device__ inline float x() const { return e[0]; }
      __host__ __device__ inline float operator[](int i) const { return e[i]; }
      __host__ __device__ inline vec3 &operator+=(const vec3 &v) { for (int i = 0; i < 3; i++) e[i] += v.e[i]; return *this; }
      float e[3];
    };
    __host__ __device__ inline vec3 operator-(const vec3 &a, const vec3 &b) { return vec3(a.e[0] - b.e[0], a.e[1] - b.e[1], a.e[2] - b.e[2]); }
    __host__ __device__ inline vec3 operator*(float t, const vec3 &v) { return vec3(t * v.e[0], t * v.e[1], t * v.e[2]); }
    __host__ __device__ inline float dot(const vec3 &a, const vec3 &b) { return a.e[0] * b.e[0] + a.e[1] * b.e[1] + a.e[2] * b.e[2]; }
    class hitable { public: __device__ virtual bool hit(const vec3 &o, const vec3 &d) const = 0; };
    class sphere : public hitable {
     public:
      __device__ sphere(vec3 c, float r) : center(c), radius(r) {}
      __device__ virtual bool hit(const vec3 &o, const vec3 &d) const;
      vec3 center; float radius;
    };
    __device__ bool sphere::hit(const vec3 &o, const vec3 &d) const {
      vec3 oc = o - center; float a = dot(d, d), b = dot(oc, d), c = dot(oc, oc) - radius * radius;
      return b * b - a * c > 0;
    }
    __global__ void render(int *out, int w, int h) {
      int i = threadIdx.x + blockIdx.x * blockDim.x, j = threadIdx.y + blockIdx.y * blockDim.y;
      if ((i >= w) || (j >= h)) return;
      sphere s(vec3(0, 0, -1), 0.5f);
      const hitable *world = &s;
      vec3 d(-2.0f + 4.0f * i / w, -1.0f + 2.0f * j / h, -1.0f);
      out[j * w + i] = world->hit(vec3(0, 0, 0), d) ? 1 : 0;
    }"""
    w, h = 64, 32
    out = np.full((h, w), -1, np.int32)
    Module(code).kernel("render")((8, 4), (8, 8), out, w, h)
    dx, dy = np.meshgrid(-2 + 4 * np.arange(w) / w, -1 + 2 * np.arange(h) / h)
    a, b = dx * dx + dy * dy + 1, -1.0
    np.testing.assert_array_equal(out, (b * b - a * 0.75 > 0).astype(np.int32))


def test_float_atomics_by_compare_and_swap():
    code = r"""
    __device__ static float atomicMaxFloat(float *address, float val) {
      int *address_as_i = (int *)address; int old = *address_as_i, assumed;
      do { assumed = old; old = ::atomicCAS(address_as_i, assumed, __float_as_int(::fmaxf(val, __int_as_float(assumed)))); } while (assumed != old);
      return __int_as_float(old);
    }
    #if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 600
    #else
    __device__ double atomicAdd(double *a, double b) { return b; }
    #endif
    __global__ void f(const float *x, float *top, double *sum, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) { atomicMaxFloat(top, x[i]); atomicAdd(sum, (double)x[i]); } }
    """
    module = Module(code)
    x = RNG.integers(-1000, 1000, 5000).astype(np.float32)
    top, total = np.full(1, -np.inf, np.float32), np.zeros(1)
    assert module.kernel("f").mode == "loop"
    module.kernel("f")(20, 256, x, top, total, x.size)
    assert top[0] == x.max() and total[0] == x.sum(dtype=np.float64)


def test_generic_kernels_with_functors_and_packs():
    code = r"""
    template <typename T> struct Square { T scale; __host__ __device__ T operator()(const T &x) const { return scale * x * x; } };
    enum class Mode : int { ADD, MUL };
    template <Mode M, typename T> struct Combine;
    template <typename T> struct Combine<Mode::ADD, T> { __device__ static T apply(T a, T b) { return a + b; } };
    template <typename T> struct Combine<Mode::MUL, T> { __device__ static T apply(T a, T b) { return a * b; } };
    template <typename F, typename T, Mode M = Mode::ADD> __global__ void transform(T *y, const T *x, unsigned n, F f) {
      for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = Combine<M, T>::apply(f(x[i]), x[i]);
    }
    template <typename... Ts> __device__ auto total(Ts... v) { return (v + ...); }
    template <int... I> __global__ void pack(int *o) { int i = threadIdx.x; o[i] = total(i, I...); }
    """
    names = ["transform<Square<float>, float>", "transform<Square<int>, int, Mode::MUL>", "pack<1, 2, 3>"]
    module = Module(code, name_expressions=names)
    x = np.arange(500, dtype=np.float32)
    y = np.zeros_like(x)
    module.kernel(names[0])(2, 64, y, x, x.size, np.float32(2).tobytes())
    np.testing.assert_array_equal(y, 2 * x * x + x)
    x = np.arange(500, dtype=np.int32)
    y = np.zeros_like(x)
    module.kernel(names[1])(2, 64, y, x, x.size, np.int32(3).tobytes())
    np.testing.assert_array_equal(y, 3 * x * x * x)
    module.kernel(names[2])(1, 500, y)
    np.testing.assert_array_equal(y, x + 6)


def test_decoupled_look_back_between_blocks():
    code = r"""
    __device__ unsigned ticket;
    struct __align__(8) Status { int flag; int value; };
    __global__ void scan(const int *in, int *out, volatile int *flags, volatile int *sums) {
      __shared__ int block_id, before, s[64];
      int t = threadIdx.x;
      if (t == 0) block_id = atomicAdd(&ticket, 1u);
      __syncthreads();
      int i = block_id * 64 + t;
      s[t] = in[i];
      __syncthreads();
      for (int o = 1; o < 64; o <<= 1) { int v = t >= o ? s[t - o] : 0; __syncthreads(); s[t] += v; __syncthreads(); }
      if (t == 63) {
        before = 0;
        if (block_id > 0) { while (flags[block_id - 1] == 0) { __threadfence(); } before = sums[block_id - 1]; }
        sums[block_id] = before + s[63];
        __threadfence();
        flags[block_id] = 1;
      }
      __syncthreads();
      out[i] = s[t] + before;
    }"""
    x = RNG.integers(-9, 10, 64 * 40).astype(np.int32)
    out, flags, sums = np.zeros_like(x), np.zeros(40, np.int32), np.zeros(40, np.int32)
    Module(code).kernel("scan")(40, 64, x, out, flags, sums)
    np.testing.assert_array_equal(out, np.cumsum(x))


def test_game_of_life_with_uchar_and_wrapping():
    code = r"""
    typedef unsigned char ubyte; typedef unsigned int uint;
    __global__ void simpleLifeKernel(const ubyte* lifeData, uint worldWidth, uint worldHeight, ubyte* resultLifeData) {
      uint worldSize = worldWidth * worldHeight;
      for (uint cellId = __mul24(blockIdx.x, blockDim.x) + threadIdx.x; cellId < worldSize; cellId += blockDim.x * gridDim.x) {
        uint x = cellId % worldWidth, yAbs = cellId - x;
        uint xLeft = (x + worldWidth - 1) % worldWidth, xRight = (x + 1) % worldWidth;
        uint yAbsUp = (yAbs + worldSize - worldWidth) % worldSize, yAbsDown = (yAbs + worldWidth) % worldSize;
        uint aliveCells = lifeData[xLeft + yAbsUp] + lifeData[x + yAbsUp] + lifeData[xRight + yAbsUp] + lifeData[xLeft + yAbs] + lifeData[xRight + yAbs]
          + lifeData[xLeft + yAbsDown] + lifeData[x + yAbsDown] + lifeData[xRight + yAbsDown];
        resultLifeData[x + yAbs] = aliveCells == 3 || (aliveCells == 2 && lifeData[x + yAbs]) ? 1 : 0;
      }
    }"""
    a = RNG.integers(0, 2, (40, 50)).astype(np.uint8)
    b = np.zeros_like(a)
    Module(code).kernel("simpleLifeKernel")(4, 128, a, 50, 40, b)
    around = sum(np.roll(a, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)) - a
    np.testing.assert_array_equal(b, ((around == 3) | ((around == 2) & (a == 1))).astype(np.uint8))


def test_fft_radix_2_in_shared_memory():
    code = r"""
    #ifndef M_PI
    #define M_PI 3.14159265358979323846
    #endif
    __device__ float2 operator*(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
    __device__ __forceinline__ float2 operator+(const float2& a, const float2& b) { return {a.x + b.x, a.y + b.y}; }
    template <int N> __global__ void __launch_bounds__(N / 2) fft(float2 *data) {
      __shared__ float2 s[N];
      const int t = threadIdx.x;
      constexpr int LOG = 31 - __builtin_clz(N);
      for (int k = t; k < N; k += blockDim.x) s[__brev(k) >> (32 - LOG)] = data[blockIdx.x * N + k];
      for (int half = 1; half < N; half *= 2) {
        __syncthreads();
        int group = t / half, j = t % half, a = group * 2 * half + j, b = a + half;
        float sn, cs; sincosf(-(float)M_PI * j / half, &sn, &cs);
        float2 u = s[a], v = s[b] * make_float2(cs, sn);
        s[a] = u + v; s[b] = make_float2(u.x - v.x, u.y - v.y);
      }
      __syncthreads();
      for (int k = t; k < N; k += blockDim.x) data[blockIdx.x * N + k] = s[k];
    }"""
    x = (RNG.random((3, 256)) + 1j * RNG.random((3, 256))).astype(np.complex64)
    want = np.fft.fft(x, axis=1)
    Module(code, name_expressions=["fft<256>"]).kernel("fft<256>")(3, 128, x)
    np.testing.assert_allclose(x, want, atol=1e-3)


def test_histogram_with_sub_histograms_per_warp():
    code = r"""
    #define WARP_COUNT 6
    #define UMUL(a, b) ((a) * (b))
    typedef unsigned int uint_;
    inline __device__ void addByte(uint_ *s_WarpHist, uint_ data, uint_ threadTag) { atomicAdd(s_WarpHist + data, 1); }
    inline __device__ void addWord(uint_ *s_WarpHist, uint_ data, uint_ tag) {
      addByte(s_WarpHist, (data >> 0) & 0xFFU, tag); addByte(s_WarpHist, (data >> 8) & 0xFFU, tag);
      addByte(s_WarpHist, (data >> 16) & 0xFFU, tag); addByte(s_WarpHist, (data >> 24) & 0xFFU, tag);
    }
    __global__ void histogram256Kernel(uint_ *d_Partial, uint_ *d_Data, uint_ dataCount) {
      __shared__ uint_ s_Hist[WARP_COUNT * 256];
      uint_ *s_WarpHist = s_Hist + (threadIdx.x >> 5) * 256;
    #pragma unroll
      for (uint_ i = 0; i < (WARP_COUNT * 256 / (WARP_COUNT * 32)); i++) s_Hist[threadIdx.x + i * WARP_COUNT * 32] = 0;
      __syncthreads();
      for (uint_ pos = UMUL(blockIdx.x, blockDim.x) + threadIdx.x; pos < dataCount; pos += UMUL(blockDim.x, gridDim.x)) addWord(s_WarpHist, d_Data[pos], 0);
      __syncthreads();
      for (uint_ bin = threadIdx.x; bin < 256; bin += WARP_COUNT * 32) {
        uint_ sum = 0;
        for (uint_ i = 0; i < WARP_COUNT; i++) sum += s_Hist[bin + i * 256] & 0xFFFFFFFF;
        d_Partial[blockIdx.x * 256 + bin] = sum;
      }
    }"""
    data = RNG.integers(0, 256, 40_000).astype(np.uint8)
    out = np.zeros((5, 256), np.uint32)
    Module(code).kernel("histogram256Kernel")(5, 192, out, data.view(np.uint32), 10_000)
    np.testing.assert_array_equal(out.sum(0), np.bincount(data, minlength=256))


def test_state_machine_with_switch_and_tables():
    code = r"""
    enum State { START, WORD, NUMBER, OTHER };
    __constant__ const char* names[] = {"start", "word", "number", "other"};
    __device__ __constant__ unsigned char weight[4] = {1, 2, 3, 4};
    __device__ bool is_digit(char c) { return c >= '0' && c <= '9'; }
    extern "C" __global__ void classify(const char* text, int width, int* out) {
      const char* s = text + (size_t)(blockIdx.x * blockDim.x + threadIdx.x) * width;
      State state = START; int score = 0;
      for (int i = 0; i < width && s[i]; ++i) {
        switch (state) {
          case START: state = is_digit(s[i]) ? NUMBER : s[i] == '\'' || s[i] == '"' ? OTHER : WORD; break;
          case NUMBER: if (!is_digit(s[i])) state = OTHER; break;
          case WORD: if (is_digit(s[i])) { state = OTHER; } // fall through
          default: score += 1'0;
        }
      }
      out[blockIdx.x * blockDim.x + threadIdx.x] = score + weight[state] + 1000 * names[state][0];
    }"""
    words = [b"abc", b"123", b"1a", b"a1b", b"'x", b"", b"zz", b"90210"]
    text = np.array(words, "S8").view(np.uint8)
    out = np.zeros(8, np.int32)
    Module(code).kernel("classify")(2, 4, text, 8, out)
    expected = []
    for w in words:
        state, score = "start", 0
        for c in w.decode():
            if state == "start":
                state = "number" if c.isdigit() else "other" if c in "'\"" else "word"
            elif state == "number":
                state = state if c.isdigit() else "other"
            else:
                if state == "word" and c.isdigit():
                    state = "other"
                score += 10
        expected.append(
            score + {"start": 1, "word": 2, "number": 3, "other": 4}[state] + 1000 * ord(state[0])
        )
    assert out.tolist() == expected


def test_standard_headers_and_using_namespace_std():
    code = r"""
    #include <cstdint>
    #include <cmath>
    #include <algorithm>
    #include <type_traits>
    #include <limits>
    using namespace std;
    template <typename T> __device__ typename enable_if<is_floating_point<T>::value, T>::type pick(T x) { return std::max(x, numeric_limits<T>::lowest()) + sqrt(x); }
    __global__ void f(const float* x, float* y, uint32_t n) { uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = pick(x[i]) + std::pow(x[i], 2.0f) + max((int)i, 3); }
    """
    x = np.arange(100, dtype=np.float32) ** 2
    y = np.zeros_like(x)
    Module(code).kernel("f")(1, 128, x, y, 100)
    np.testing.assert_allclose(y, x + np.sqrt(x) + x**2 + np.maximum(np.arange(100), 3), rtol=1e-6)
