// Where __shared__ variables lie in a worker's arena: a kernel's own, then those of device functions, then
// extern.
//
// `__shared__ T x[N];` becomes `typedef T hmm_t_x[N];` and a reference `x` into the arena. A variable's
// offset is given out when the module is loaded, by the constructor of a template static: its type may depend
// on template parameters and on local names, so only the compiler knows the size. Two variables of one owner
// never overlap, also if their scopes do not, because threads may be in both at once.
#pragma once

// Names a kernel's variable by its place in the source; those of device functions are named by a local type,
// because each instance of a template has its own.
template <int Declaration, int Declarator> struct hmm_variable;

struct hmm_device_functions; // the owner of the shared variables of all device functions of a module

// Bytes given out so far; `Owner` is a kernel's tag or hmm_device_functions.
template <class Owner> struct hmm_shared_use {
  static uint32_t bytes;
};
template <class Owner> uint32_t hmm_shared_use<Owner>::bytes = 0;

inline uint32_t hmm_round_up(uint32_t n, uint32_t align) { return (n + align - 1) / align * align; }

inline uint32_t hmm_take(uint32_t& bytes, uint32_t size, uint32_t align) {
  uint32_t offset = hmm_round_up(bytes, align);
  bytes = offset + size;
  return offset;
}

constexpr uint32_t hmm_shared_align(size_t natural, size_t size, size_t asked = 1) {
  size_t least = size >= 64 ? 64 : 16; // arrays begin on cache lines
  size_t a = natural > least ? natural : least;
  return uint32_t(asked > a ? asked : a);
}

template <class Owner, class Variable, class T, size_t Asked> struct hmm_shared_slot {
  static const uint32_t offset;
};
template <class Owner, class Variable, class T, size_t Asked>
const uint32_t hmm_shared_slot<Owner, Variable, T, Asked>::offset =
    hmm_take(hmm_shared_use<Owner>::bytes, sizeof(T), hmm_shared_align(alignof(T), sizeof(T), Asked));

template <class Owner> struct hmm_shared_base {
  static HMM_INLINE unsigned char* of(const hmm_ctx& c) { return c.worker->shared; }
};
template <> struct hmm_shared_base<hmm_device_functions> {
  static HMM_INLINE unsigned char* of(const hmm_ctx& c) { return c.rt->device_shared; }
};

template <class Owner, class Variable, class T, size_t Asked = 1> HMM_INLINE T& hmm_shared(const hmm_ctx& c) {
  unsigned char* at = hmm_shared_base<Owner>::of(c) + hmm_shared_slot<Owner, Variable, T, Asked>::offset;
  return *reinterpret_cast<T*>(__builtin_assume_aligned(at, 16));
}

// extern __shared__ T x[]
template <class T> HMM_INLINE T& hmm_dynamic_shared(const hmm_ctx& c) {
  return *reinterpret_cast<T*>(c.rt->dynamic_shared);
}

// __device__ and __constant__ variables: `T x = init;` becomes a static `hmm_init_x` and a reference x into
// memory that CPU and device share, bound when the module is loaded.
template <class T, size_t Asked> T& hmm_global_bind(const char* name, const T& initial) {
  size_t align = alignof(T) > Asked ? alignof(T) : Asked;
  return *static_cast<T*>(
      hmmemu_global_address(name, sizeof(T), align > 16 ? align : 16, (const void*)&initial));
}
