// Kernels whose locals live across barriers: what threads share, what each has of its own, and who changes it when.
// Any way to run a kernel must give each thread its own of these.

struct Acc { int v; __device__ void add(int x) { v += x; } };
extern "C" __global__ void again_stale(int* out, int n) {
  int t = threadIdx.x;
  int stride = n, offset = t & (stride - 1);
  __syncthreads();
  stride >>= 1;
  __syncthreads();
  out[t] = offset * 100 + stride;
}
extern "C" __global__ void method_changes(Acc init, int* out) {
  Acc mine = init;
  mine.add(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = mine.v;
}
struct Fun { int v; __device__ int operator()(int x) { v += x; return v; } };
extern "C" __global__ void functor_changes(Fun init, int* out) {
  Fun f = init;
  f(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = f(1);
}
__device__ void set(int& a, int x) { a = x; }
extern "C" __global__ void member_by_reference(Acc p, int* out) {
  set(p.v, threadIdx.x);
  __syncthreads();
  Acc q = p;
  __syncthreads();
  out[threadIdx.x] = q.v;
}
extern "C" __global__ void const_pointer(const int* x, const int* idx, int* out) {
  const int* p = x + idx[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = *p;
}
struct Pair { int a, b; __device__ Pair(int x, int y) : a(x), b(y) {} };
extern "C" __global__ void no_default_constructor(int* out) {
  Pair mine = Pair(threadIdx.x, out[threadIdx.x]);
  __syncthreads();
  out[threadIdx.x] = mine.a + mine.b;
}
extern "C" __global__ void braces(int* out) {
  Pair mine{(int)threadIdx.x, out[threadIdx.x]};
  __syncthreads();
  out[threadIdx.x] = mine.a + mine.b;
}
struct Guard { int* c; __device__ Guard(int* x) : c(x) {} __device__ ~Guard() { atomicAdd(c, 1); } };
extern "C" __global__ void with_destructor(int* out, int* count) {
  Guard g{count};
  __syncthreads();
  out[threadIdx.x] = g.c == count;
}
struct Defaulted { int v = 5; };
extern "C" __global__ void default_member(int* out) {
  for (int i = 0; i < 3; ++i) {
    Defaulted d;
    d.v += threadIdx.x;
    __syncthreads();
    out[threadIdx.x] += d.v;
  }
}
extern "C" __global__ void large_local(int* out) {
  int a[2048];
  for (int i = 0; i < 2048; ++i) a[i] = i + threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = a[out[threadIdx.x]];
}
extern "C" __global__ void reference_local(int* out) {
  int x = 1;
  int& r(x);
  r += threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = x;
}
extern "C" __global__ void const_local(int* in, int* out) {
  const int x = in[threadIdx.x], y[2] = {x, 2 * x};
  __syncthreads();
  out[threadIdx.x] = x + y[1];
}
extern "C" __global__ void uninitialised(int n, int* out) {
  int k;
  if (n > 3) k = 7; else k = 9;
  __syncthreads();
  out[threadIdx.x] = k;
}
extern "C" __global__ void shadow(int n, int* out) {
  int k = n;
  { int k = threadIdx.x; out[k] = k; }
  __syncthreads();
  out[threadIdx.x] += k;
}
extern "C" __global__ void comma(int n, int* out) {
  int sum = 0;
  for (int i = 0, j = n; i < j; ++i, --j) { __syncthreads(); sum += i * j + threadIdx.x; }
  out[threadIdx.x] = sum;
}
extern "C" __global__ void return_inside(int n, int* out) {
  for (int i = 0; i < n; ++i) {
    if (threadIdx.x == i) { out[threadIdx.x] = i * 10; return; }
    __syncthreads();
  }
  out[threadIdx.x] = -1;
}
extern "C" __global__ void do_while(int n, int* out) {
  __shared__ int s[64];
  int k = n;
  s[threadIdx.x] = threadIdx.x;
  do {
    __syncthreads();
    int v = s[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    s[threadIdx.x] = v;
    k--;
  } while (k > 0);
  out[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void uniform_if(int n, int* out) {
  __shared__ int s[64];
  if (n & 1) { s[threadIdx.x] = 1; __syncthreads(); out[threadIdx.x] = s[63 - threadIdx.x]; }
  else if (n & 2) { s[threadIdx.x] = 2 * threadIdx.x; __syncthreads(); out[threadIdx.x] = s[63 - threadIdx.x]; }
  else out[threadIdx.x] = -5;
}
extern "C" __global__ void swap_pointers(int* out, int n) {
  __shared__ int a[64], b[64];
  int *from = a, *to = b;
  from[threadIdx.x] = threadIdx.x;
  for (int i = 0; i < n; ++i) {
    __syncthreads();
    to[threadIdx.x] = from[(threadIdx.x + 1) % blockDim.x];
    int* k = from; from = to; to = k;
  }
  out[threadIdx.x] = from[threadIdx.x];
}
__device__ int counter_value = 3;
extern "C" __global__ void global_in_condition(int* out) {
  if (threadIdx.x == 0 && blockIdx.x == 0) counter_value = 3;
  for (int i = 0; i < counter_value; ++i) { __syncthreads(); out[threadIdx.x] += 1; }
}
extern "C" __global__ void two_dims(int* out) {
  __shared__ int s[4][8];
  int x = threadIdx.x, y = threadIdx.y;
  s[y][x] = x + 10 * y;
  __syncthreads();
  out[y * 8 + x] = s[3 - y][7 - x];
}
extern "C" __global__ void again_of_again(int* out, int n) {
  int t = threadIdx.x, u = t * 2, v = u + n, w = v;
  __syncthreads();
  w += 1;
  __syncthreads();
  out[t] = u + v + w;
}
extern "C" __global__ void changed_parameter(int* out, int n) {
  int t = threadIdx.x + n;
  __syncthreads();
  n = 100;
  __syncthreads();
  out[threadIdx.x] = t + n;
}
extern "C" __global__ void parameter_per_thread(int* out, int n) {
  n += threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = n;
}
extern "C" __global__ void pointer_steps(const int* in, int* out, int n) {
  in += threadIdx.x;
  int sum = 0;
  for (int i = 0; i < n; ++i, in += 1) { sum += *in; __syncthreads(); }
  out[threadIdx.x] = sum;
}
enum class Mode : int { a, b };
extern "C" __global__ void enum_condition(Mode m, int* out) {
  if (m == Mode::b) { out[threadIdx.x] = 1; __syncthreads(); out[threadIdx.x] += 1; }
}
extern "C" __global__ void comma_declarators(int* out, int n) {
  int t = threadIdx.x, *p = out + t, k = 0, acc[3] = {1, 2, 3};
  while (k < n) { acc[k % 3] += t; ++k; __syncthreads(); }
  *p = acc[0] + acc[1] * 10 + acc[2] * 100;
}
extern "C" __global__ void vectors_and_matrices(int* out) {
  float4 v = make_float4(threadIdx.x, 1, 2, 3);
  float m[2][2] = {{v.x, v.y}, {v.z, v.w}};
  __syncthreads();
  m[1][0] += v.x;
  __syncthreads();
  out[threadIdx.x] = (int)(m[0][0] + m[1][0]);
}
