// The C++ that kernels are written in: templates, classes, functors, tables of functions, control flow.
#include "shapes.cuh"

// -- templates, functors, lambdas --
struct Plus { template <typename T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Larger { template <typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; } };
template <typename T> struct Scaled {
  T by;
  __host__ __device__ explicit Scaled(T b) : by(b) {}
  __device__ T operator()(T x) const { return x * by; }
};
template <typename T, int N, typename Op> __device__ T block_fold(T value, Op op) {
  __shared__ T s[N];
  s[threadIdx.x] = value;
  __syncthreads();
  for (int half = N / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) s[threadIdx.x] = op(s[threadIdx.x], s[threadIdx.x + half]);
    __syncthreads();
  }
  return s[0];
}
template <typename T, int N, class Op = Plus> __global__ void fold(const T* x, T* out) {
  T folded = block_fold<T, N>(x[blockIdx.x * N + threadIdx.x], Op());
  if (threadIdx.x == 0) out[blockIdx.x] = folded;
}
template <typename T, typename F> __device__ void for_each(T* x, int n, F f) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) f(x[i], i);
}
extern "C" __global__ void with_lambdas(float* x, int n, float a) {
  for_each(x, n, [=](float& v, int i) { v = a * i; });
  Scaled<float> twice(2.0f);
  for_each(x, n, [&](float& v, int i) { v = twice(v) + (float)(blockDim.x * gridDim.x); });
  auto square = [](float v) { return v * v; };
  for_each(x, n, [square](float& v, int) { v = square(v); });
}
template <int N> __device__ constexpr int factorial() { if constexpr (N <= 1) return 1; else return N * factorial<N - 1>(); }
template <int... Values> __device__ constexpr int sum_of() { return (Values + ... + 0); }
template <typename First, typename... Rest> __device__ double add_all(First first, Rest... rest) {
  if constexpr (sizeof...(rest) == 0) return first;
  else return first + add_all(rest...);
}
extern "C" __global__ void compile_time(int* out) {
  constexpr int table[4] = {factorial<3>(), factorial<5>(), sum_of<1, 2, 3>(), (int)sizeof(double)};
  static_assert(factorial<4>() == 24, "factorial");
  if (threadIdx.x < 4) out[threadIdx.x] = table[threadIdx.x];
  if (threadIdx.x == 4) out[4] = (int)add_all(1, 2.5f, 3.5, (short)4);
}

// -- classes --
class Shape {
 public:
  __device__ virtual float area() const = 0;
  __device__ virtual float twice() const { return 2 * area(); }
  __device__ virtual ~Shape() {}
};
class Square : public Shape {
  float side;
 public:
  __device__ Square(float s) : side(s) {}
  __device__ float area() const override { return side * side; }
};
class Circle final : public Shape {
  float radius;
 public:
  __device__ Circle(float r) : radius(r) {}
  __device__ float area() const override { return 3.0f * radius * radius; }
  __device__ float twice() const override { return Shape::twice() + 1; }
};
extern "C" __global__ void virtual_calls(float* out) {
  Square square(threadIdx.x);
  Circle circle(threadIdx.x + 1.0f);
  const Shape* shapes[2] = {&square, &circle};
  out[threadIdx.x] = shapes[threadIdx.x % 2]->area() + shapes[1 - threadIdx.x % 2]->twice();
}
extern "C" __global__ void by_value(Body body, Vector<float, 3> wind, Body* out) {
  Body mine = body;
  mine.move(wind * (float)threadIdx.x);
  mine.kind = threadIdx.x & 1 ? Kind::moving : Kind::still;
  out[threadIdx.x] = mine;
}
class Counter {
 public:
  __device__ Counter(int* to) : to_(to), seen_(0) {}
  __device__ ~Counter() { if (seen_) atomicAdd(to_, seen_); }
  __device__ Counter& operator++() { ++seen_; return *this; }
  __device__ int index() const { return blockIdx.x * blockDim.x + threadIdx.x; }
 private:
  int *to_, seen_;
};
extern "C" __global__ void destructors(const int* x, int n, int* count) {
  Counter counter(count);
  for (int i = counter.index(); i < n; i += gridDim.x * blockDim.x) {
    if (x[i] < 0) return;
    if (x[i] % 2) ++counter;
  }
}

// -- functions --
typedef float (*Binary)(float, float);
__device__ float add_f(float a, float b) { return a + b; }
__device__ float sub_f(float a, float b) { return a - b; }
__device__ float mul_f(float a, float b) { return a * b; }
__device__ Binary operations[3] = {add_f, sub_f, mul_f};
extern "C" __global__ void function_table(const int* which, const float* a, const float* b, float* out) {
  int i = threadIdx.x;
  Binary chosen = operations[which[i]];
  out[i] = chosen(a[i], b[i]);
}
template <Binary F> __global__ void apply_constant(const float* a, float* out) { out[threadIdx.x] = F(a[threadIdx.x], 2.0f); }
__device__ int ackermann(int m, int n) { return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1)); }
__device__ int depth_of(int n) { return n == 0 ? (int)threadIdx.x : 1 + depth_of(n - 1); }
extern "C" __global__ void recursion(int* out) {
  int i = threadIdx.x;
  out[i] = ackermann(i % 3, i % 5) + depth_of(i);
}
__device__ int kind_of(int) { return 1; }
__device__ int kind_of(float) { return 2; }
__device__ int kind_of(double) { return 3; }
__device__ int kind_of(const char*) { return 4; }
template <typename T> __device__ int kind_of(T*) { return 5; }
static __device__ int with_default(int a, int b = 7) { return 10 * a + b; }
extern "C" __global__ void overloads(int* out) {
  out[0] = kind_of(1), out[1] = kind_of(1.0f), out[2] = kind_of(1.0), out[3] = kind_of("x"), out[4] = kind_of(out);
  out[5] = with_default(4), out[6] = with_default(4, 1);
}
namespace outer {
namespace inner {
__device__ const int scale = 3;
__device__ int scaled(int x) { return scale * x + threadIdx.x; }
__global__ void in_namespace(int* out) { out[threadIdx.x] = scaled(out[threadIdx.x]); }
}  // namespace inner
namespace {
__device__ int hidden(int x) { return -x; }
}  // namespace
template <class T> __global__ void negate(T* x) { x[threadIdx.x] = hidden(x[threadIdx.x]); }
}  // namespace outer
__global__ void mangled(const int* in, int* out) { using namespace outer::inner; out[threadIdx.x] = scaled(in[threadIdx.x]) + scale; }

// -- control flow around barriers --
extern "C" __global__ void machine(const int* program, int length, int* out) {
  __shared__ int s[64];
  int t = threadIdx.x, pc = 0;
  s[t] = t;
  __syncthreads();
  while (pc < length) {
    int seen;
    switch (program[pc++]) {
      case 0: s[t] += 1; __syncthreads(); break;
      case 1:
        seen = s[(t + 1) % blockDim.x];
        __syncthreads();
        s[t] = seen;
        __syncthreads();
        break;
      case 2: {
        seen = s[blockDim.x - 1 - t];
        __syncthreads();
        s[t] += seen;
      }  // and falls through
      case 3: __syncthreads(); s[t] ^= 1; __syncthreads(); break;
      default: goto out_of_loop;
    }
  }
out_of_loop:
  out[t] = s[t];
}
extern "C" __global__ void go_to(const int* x, int n, int* steps) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, v, count = 0;
  if (i >= n) goto done;
  v = x[i];
again:
  if (v == 1) goto store;
  v = v % 2 ? 3 * v + 1 : v / 2;
  ++count;
  goto again;
store:
  steps[i] = count;
done:
  return;
}
extern "C" __global__ void early_and_late(const int* x, int n, int* out) {
  __shared__ int best;
  if (threadIdx.x == 0) best = -1;
  __syncthreads();
  for (int base = 0; base < n; base += blockDim.x) {
    int i = base + threadIdx.x;
    bool found = i < n && x[i] == 7;
    if (found) atomicMax(&best, i);
    if (__syncthreads_count(found) >= 2) break;
    if (base > 100 && __syncthreads_and(best < 0)) continue;
  }
  __syncthreads();
  if (threadIdx.x == 0) *out = best;
}

// -- macros --
#define NAME(prefix, n) prefix##_##n
#define TEXT(x) #x
#define DEFINE_POWER(n) \
  __device__ int NAME(power, n)(int x) { \
    int r = 1; \
    for (int i = 0; i < n; ++i) r *= x; \
    return r; \
  }
DEFINE_POWER(2)
DEFINE_POWER(3)
extern "C" __global__ void macros(int* out) {
  out[0] = NAME(power, 2)(5), out[1] = NAME(power, 3)(5), out[2] = sizeof TEXT(abc), out[3] = FROM_OPTION, out[4] = FROM_HEADER(6);
  printf("%s\n", TEXT(a + b));
}
