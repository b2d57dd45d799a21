// Code that asks for its indices, barriers and lanes from places that no parameter reaches.

// Functors that a kernel knows only by its template argument, or by that argument's default.
struct Shifted {
  int by;
  __device__ int operator()(int x) const { return x + by + threadIdx.x; }
};
struct Reversed {
  int unused;
  __device__ int operator()(int x) const {
    __shared__ int s[64];
    s[threadIdx.x] = x;
    __syncthreads();
    return s[blockDim.x - 1 - threadIdx.x];
  }
};
struct Seventh {
  int unused;
  __device__ int operator()(int x) const { return __shfl_sync(0xffffffffu, x, 7); }
};
template <class F = Reversed> __global__ void apply(int* out, F f) { out[threadIdx.x] = f((int)threadIdx.x * 2); }

// Initial values of members, default arguments, initialisers of constructors, conversions, operators.
struct Place {
  int at = threadIdx.x + blockIdx.x * blockDim.x;
  int blocks = gridDim.x;
};
__device__ int here(int at = threadIdx.x) { return at; }
struct Both {
  int a, b;
  __device__ Both() : a(threadIdx.x), b(blockDim.x) {}
  __device__ explicit Both(int x) : Both() { a += x; }
  __device__ operator int() const { return a + b + (threadIdx.x & 1); }
  __device__ bool operator<(const Both&) const { return threadIdx.x < 5; }
};
extern "C" __global__ void members(int* out) {
  Place p;
  out[p.at] = p.at * 10 + p.blocks;
}
extern "C" __global__ void arguments(int* out) { out[threadIdx.x] = here() + here(3); }
extern "C" __global__ void operators(int* out) {
  Both one(5), other;
  out[threadIdx.x] = one + (one < other);
}

// Static members, inheritance by template, virtual functions with barriers, members defined outside.
struct Block {
  static __device__ void sync() { __syncthreads(); }
  static __device__ int id() { return threadIdx.x; }
};
template <class Derived> struct Runner {
  __device__ int run() {
    Block::sync();
    return static_cast<Derived*>(this)->value() + blockDim.x;
  }
};
struct Tripled : Runner<Tripled> {
  int v;
  __device__ Tripled(int x) : v(x) {}
  __device__ int value();
};
__device__ int Tripled::value() { return v * Block::id(); }
struct Reader {
  __device__ virtual int read(const int* s) {
    __syncthreads();
    return s[63 - threadIdx.x];
  }
};
struct NextReader : Reader {
  __device__ int read(const int* s) override { return Reader::read(s) + 1; }
};
extern "C" __global__ void inherited(int* out) {
  __shared__ int s[64];
  Tripled tripled(3);
  NextReader next;
  Reader* reader = &next;
  s[Block::id()] = tripled.run();
  out[threadIdx.x] = reader->read(s);
}

// Lambdas: with barriers, nested, captured by copy; functions with indices behind pointers.
template <class F> __device__ int call(F f) { return f(); }
__device__ int plus_index(int x) { return x + threadIdx.x; }
__device__ int times_size(int x) {
  __syncthreads();
  return x * blockDim.x;
}
typedef int (*Function)(int);
__device__ Function functions[] = {plus_index, &times_size};
extern "C" __global__ void closures(int* out) {
  __shared__ int s[64];
  auto sync = [&] { __syncthreads(); };
  auto id = [] { return (int)threadIdx.x; };
  auto get = [=](int i) { return s[i] + (int)threadIdx.x; };
  s[id()] = id();
  sync();
  int nested = call([&] { return call([=] { return s[0] + (int)threadIdx.x; }) + call([] { return (int)blockDim.x; }); });
  out[threadIdx.x] = get(63 - id()) + nested + functions[1](2) + functions[0](5);
}

// The samples' wrapper of dynamic shared memory; a barrier in a recursion; an array the size of a thread's stack.
template <class T> struct SharedMemory {
  __device__ operator T*() {
    extern __shared__ int memory[];
    return (T*)memory;
  }
};
template <> struct SharedMemory<double> {
  __device__ operator double*() {
    extern __shared__ double memory_of_doubles[];
    return memory_of_doubles;
  }
};
template <class T> __global__ void reverse(int* out) {
  T* s = SharedMemory<T>();
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = (int)s[63 - threadIdx.x];
}
__device__ int rotate(int* s, int n) {
  if (n == 0) return s[threadIdx.x];
  __syncthreads();
  int v = s[(threadIdx.x + n) & 63];
  __syncthreads();
  s[threadIdx.x] = v;
  return rotate(s, n - 1);
}
extern "C" __global__ void recursive(int* out) {
  __shared__ int s[64];
  s[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = rotate(s, 3);
}
extern "C" __global__ void large_frame(int* out, int n) {
  int a[30000];
  for (int i = 0; i < n; ++i) a[i] = out[i & 3];
  __syncwarp();
  out[0] = a[out[0] & 7];
}
