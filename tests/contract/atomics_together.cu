// What devices do in test_atomics_together.py: every operation, on every type, on words that the CPU uses meanwhile.
//
// Words of a type: 0 sum, 1 exchange, 2 compare-and-swap, 3 minimum, 4 maximum, 5 bits, 6 increment, 7 decrement.
// Each thread checks what it is told of a word that others change too: after its own minimum a word never is larger
// again; its own bit is as it left it. What does not hold is counted in `bad`. What exchanges returned is summed in
// `taken`: it all was put in by somebody, and once.
#include <cuda/atomic>

typedef unsigned long long u64;
template <class T> using everywhere = cuda::atomic_ref<T, cuda::thread_scope_system>;

// CUDA has these for unsigned words of 64 bits only.
template <class T> __device__ T plus(T* p, T v) { return atomicAdd_system(p, v); }
__device__ long long plus(long long* p, long long v) { return atomicAdd_system((u64*)p, (u64)v); }
template <class T> __device__ void minus(T* p, T v) { atomicSub_system(p, v); }
__device__ void minus(long long* p, long long v) { everywhere<long long>(*p).fetch_sub(v); }
__device__ void minus(u64* p, u64 v) { everywhere<u64>(*p).fetch_sub(v); }
template <class T> __device__ T swap(T* p, T v) { return atomicExch_system(p, v); }
__device__ long long swap(long long* p, long long v) { return atomicExch_system((u64*)p, (u64)v); }
template <class T> __device__ T cas(T* p, T old, T v) { return atomicCAS_system(p, old, v); }
__device__ long long cas(long long* p, long long old, long long v) { return atomicCAS_system((u64*)p, (u64)old, (u64)v); }


template <class T> __device__ void integers(T* w, int rounds, int me, u64* bad, u64* taken) {
  const T bit = (T)1 << me;
  T low = (T)1 << 30, high = 0;
  u64 wrong = 0, sum = 0;
  for (int r = 0; r < rounds; ++r) {
    plus(w, (T)5);
    minus(w, (T)2);
    sum += swap(w + 1, (T)((me << 16) + r + 1));
    T seen = w[2];
    for (T old; (old = cas(w + 2, seen, (T)(seen + 1))) != seen; seen = old) { }
    T down = (T)(100000 - (64 * r + me)), up = (T)(100000 + 64 * r + me);
    T lower = atomicMin_system(w + 3, down), upper = atomicMax_system(w + 4, up);
    wrong += (lower > low) + (upper < high);
    low = lower < down ? lower : down;
    high = upper > up ? upper : up;
    wrong += (atomicOr_system(w + 5, bit) & bit) != 0;
    wrong += (atomicXor_system(w + 5, bit) & bit) == 0;
    wrong += (atomicXor_system(w + 5, bit) & bit) != 0;
    wrong += (atomicAnd_system(w + 5, (T)~bit) & bit) == 0;
  }
  atomicAdd(bad, wrong);
  atomicAdd(taken, sum);
}

__device__ void counters(unsigned* w, int rounds, u64* bad) {
  u64 wrong = 0;
  for (int r = 0; r < rounds; ++r) {
    wrong += atomicInc_system(w + 6, 10u) > 10;
    wrong += atomicDec_system(w + 7, 10u) > 10;
  }
  atomicAdd(bad, wrong);
}

template <class T> __device__ void floats(T* w, int rounds, int me, u64* bad, u64* taken) {
  T low = (T)(1 << 30), high = 0;
  u64 wrong = 0, sum = 0;
  for (int r = 0; r < rounds; ++r) {
    atomicAdd_system(w, (T)0.5);
    atomicAdd_system(w, (T)-0.25);
    sum += (u64)everywhere<T>(w[1]).exchange((T)((me << 16) + r + 1));
    T down = (T)100000 - (64 * r + me), up = (T)100000 + 64 * r + me;
    T lower = everywhere<T>(w[3]).fetch_min(down), upper = everywhere<T>(w[4]).fetch_max(up);
    wrong += (lower > low) + (upper < high);
    low = lower < down ? lower : down;
    high = upper > up ? upper : up;
  }
  atomicAdd(bad, wrong);
  atomicAdd(taken, sum);
}

template <class T> __device__ void narrow(T* w, int rounds) {
  for (int r = 0; r < rounds; ++r) {
    everywhere<T>(w[0]).fetch_add((T)5);
    everywhere<T>(w[0]).fetch_sub((T)2);
  }
}

// A block a type. Thread t is number first + t of all that take part.
extern "C" __global__ void together(unsigned char* words, int apart, int rounds, int first, unsigned* gate, unsigned open,
                                    u64* bad, u64* taken) {
  int me = first + threadIdx.x, type = blockIdx.x;
  unsigned char* w = words + (size_t)apart * type;
  while (*(volatile unsigned*)gate < open) { }
  bad += type, taken += type;
  switch (type) {
  case 0: integers((int*)w, rounds, me, bad, taken); break;
  case 1: integers((unsigned*)w, rounds, me, bad, taken); counters((unsigned*)w, rounds, bad); break;
  case 2: integers((long long*)w, rounds, me, bad, taken); break;
  case 3: integers((u64*)w, rounds, me, bad, taken); break;
  case 4: floats((float*)w, rounds, me, bad, taken); break;
  case 5: floats((double*)w, rounds, me, bad, taken); break;
  case 6: narrow((unsigned short*)w, rounds); break;
  case 7: narrow(w, rounds); break;
  }
}

extern "C" __global__ void look(unsigned char* words, int apart) {
  atomicAdd_system((unsigned*)(words + (size_t)apart * blockIdx.x), 0u);
}

// Adds ones until it has made `least` additions and the others, meanwhile, `theirs`; then says how many it made.
template <class T> __device__ void add_ones(T* word, unsigned least, unsigned theirs, u64* made) {
  u64 first = (u64)atomicAdd_system(word, (T)1), mine = 1, old;
  do {
    old = (u64)atomicAdd_system(word, (T)1);
    ++mine;
  } while (mine < least || old - first < mine - 1 + theirs);
  *made = mine;
}
extern "C" __global__ void add_ones_unsigned(u64* word, unsigned least, unsigned theirs, u64* made) {
  add_ones(word, least, theirs, made);
}
extern "C" __global__ void add_ones_double(double* word, unsigned least, unsigned theirs, u64* made) {
  add_ones(word, least, theirs, made);
}
