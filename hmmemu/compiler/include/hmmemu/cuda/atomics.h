// CUDA's atomic functions, on memory that several workers and processes may share.
//
// Every one is hmm_atomic<Operation, scope>(address, value): relaxed order, returns the old value. Integer
// operations that the CPU has are one instruction; the others repeat compare-and-swap. System scope is the
// device's own for now: the page belongs to one processor while it is written, so both are the same.
//
// In a block's shared memory, and in block scope, no other CPU thread can be at work, since a block's threads
// all run on one: there hmm_atomic_local<Operation> does the same without a locked instruction. It stays a
// relaxed atomic load and store, so that no compiler vectorises it across the threads of a block.
#pragma once

namespace hmm_cuda {

enum class hmm_scope { block, device, system };

template <int bytes> struct hmm_word;
template <> struct hmm_word<2> {
  using type = unsigned short;
};
template <> struct hmm_word<4> {
  using type = unsigned int;
};
template <> struct hmm_word<8> {
  using type = unsigned long long;
};
template <class T> using hmm_word_of = typename hmm_word<sizeof(T)>::type;
template <class T> inline constexpr bool hmm_is_integer = hmm_arithmetic<T>::value == 1;

// An operation gives the new value. `native`: the CPU does the whole on integers, by `fetch`.
// `skips`: an unchanged value need not be written. `moves_bits`: the type does not matter.
#define HMM_OPERATION(name, expression)                                                                      \
  struct hmm_op_##name {                                                                                     \
    static constexpr bool native = true, skips = false, moves_bits = false;                                  \
    template <class T> static HMM_INLINE T apply(T old, T v) { return expression; }                          \
    template <class T> static HMM_INLINE T fetch(T* p, T v) {                                                \
      return __atomic_fetch_##name(p, v, __ATOMIC_RELAXED);                                                  \
    }                                                                                                        \
  };
template <class T> HMM_INLINE T hmm_wrapping_add(T x, T y) {
  if constexpr (hmm_is_integer<T>)
    return (T)((hmm_word_of<T>)x + (hmm_word_of<T>)y);
  else
    return x + y;
}
HMM_OPERATION(add, hmm_wrapping_add(old, v))
HMM_OPERATION(sub, (T)((hmm_word_of<T>)old - (hmm_word_of<T>)v))
HMM_OPERATION(and, old& v)
HMM_OPERATION(or, old | v)
HMM_OPERATION(xor, old ^ v)
#undef HMM_OPERATION
struct hmm_op_exch {
  static constexpr bool native = true, skips = false, moves_bits = true;
  template <class T> static HMM_INLINE T apply(T, T v) { return v; }
  template <class T> static HMM_INLINE T fetch(T* p, T v) {
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
  }
};
// The CPU has no instruction for these.
#define HMM_LOOP_OPERATION(name, skip, expression)                                                           \
  struct hmm_op_##name {                                                                                     \
    static constexpr bool native = false, skips = skip, moves_bits = false;                                  \
    template <class T> static HMM_INLINE T apply(T old, T v) { return expression; }                          \
  };
HMM_LOOP_OPERATION(min, true, v < old ? v : old)
HMM_LOOP_OPERATION(max, true, v > old ? v : old)
HMM_LOOP_OPERATION(inc, false, old >= v ? (T)0 : (T)(old + 1))
HMM_LOOP_OPERATION(dec, false, old == 0 || old > v ? v : (T)(old - 1))
#undef HMM_LOOP_OPERATION

template <class Operation, class T> HMM_INLINE T hmm_atomic_loop(T* address, T value) {
  using W = hmm_word_of<T>;
  W* word = (W*)address;
  W seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  for (;;) {
    T old = __builtin_bit_cast(T, seen);
    W wanted = __builtin_bit_cast(W, Operation::apply(old, value));
    if (Operation::skips && wanted == seen) return old;
    if (__atomic_compare_exchange_n(word, &seen, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return old;
  }
}

template <class Operation, class T> HMM_INLINE T hmm_atomic_local(T* address, T value) {
  using W = hmm_word_of<T>;
  W* word = (W*)address;
  T old = __builtin_bit_cast(T, __atomic_load_n(word, __ATOMIC_RELAXED));
  __atomic_store_n(word, __builtin_bit_cast(W, Operation::apply(old, value)), __ATOMIC_RELAXED);
  return old;
}

// Whether only this CPU thread can be at work on the address: a block's shared memory lies in its worker's
// arena.
template <hmm_scope scope> HMM_INLINE bool hmm_is_local(const void* address) {
  if (scope == hmm_scope::block) return true;
  return (size_t)((const unsigned char*)address - hmmemu_worker_self->shared) < HMM_SHARED_BYTES;
}

template <class Operation, hmm_scope scope, class T> HMM_INLINE T hmm_atomic(T* address, T value) {
  if (hmm_is_local<scope>(address)) return hmm_atomic_local<Operation>(address, value);
  if constexpr (Operation::native && (hmm_is_integer<T> || Operation::moves_bits)) {
    using W = hmm_word_of<T>;
    W old = Operation::fetch((W*)address, __builtin_bit_cast(W, value));
    return __builtin_bit_cast(T, old);
  } else {
    return hmm_atomic_loop<Operation>(address, value);
  }
}

// Stores `value` if the word is `compare`; returns what it was.
template <hmm_scope scope, class T> HMM_INLINE T hmm_atomic_cas(T* address, T compare, T value) {
  if (hmm_is_local<scope>(address)) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    if (old == compare) __atomic_store_n(address, value, __ATOMIC_RELAXED);
    return old;
  }
  __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}

#define HMM_ATOMIC(name, operation, T)                                                                       \
  HMM_INLINE T name(T* address, T value) {                                                                   \
    return hmm_atomic<operation, hmm_scope::device>(address, value);                                         \
  }                                                                                                          \
  HMM_INLINE T name##_block(T* address, T value) {                                                           \
    return hmm_atomic<operation, hmm_scope::block>(address, value);                                          \
  }                                                                                                          \
  HMM_INLINE T name##_system(T* address, T value) {                                                          \
    return hmm_atomic<operation, hmm_scope::system>(address, value);                                         \
  }
#define HMM_ATOMIC_BITS(name, operation)                                                                     \
  HMM_ATOMIC(name, operation, int)                                                                           \
  HMM_ATOMIC(name, operation, unsigned int)                                                                  \
  HMM_ATOMIC(name, operation, long long)                                                                     \
  HMM_ATOMIC(name, operation, unsigned long long)
HMM_ATOMIC(atomicAdd, hmm_op_add, int)
HMM_ATOMIC(atomicAdd, hmm_op_add, unsigned int)
HMM_ATOMIC(atomicAdd, hmm_op_add, unsigned long long)
HMM_ATOMIC(atomicAdd, hmm_op_add, float)
HMM_ATOMIC(atomicAdd, hmm_op_add, double)
HMM_ATOMIC(atomicSub, hmm_op_sub, int)
HMM_ATOMIC(atomicSub, hmm_op_sub, unsigned int)
HMM_ATOMIC(atomicExch, hmm_op_exch, int)
HMM_ATOMIC(atomicExch, hmm_op_exch, unsigned int)
HMM_ATOMIC(atomicExch, hmm_op_exch, unsigned long long)
HMM_ATOMIC(atomicExch, hmm_op_exch, float)
HMM_ATOMIC(atomicInc, hmm_op_inc, unsigned int)
HMM_ATOMIC(atomicDec, hmm_op_dec, unsigned int)
HMM_ATOMIC_BITS(atomicMin, hmm_op_min)
HMM_ATOMIC_BITS(atomicMax, hmm_op_max)
HMM_ATOMIC_BITS(atomicAnd, hmm_op_and)
HMM_ATOMIC_BITS(atomicOr, hmm_op_or)
HMM_ATOMIC_BITS(atomicXor, hmm_op_xor)
#undef HMM_ATOMIC
#undef HMM_ATOMIC_BITS

#define HMM_ATOMIC_CAS(T)                                                                                    \
  HMM_INLINE T atomicCAS(T* address, T compare, T value) {                                                   \
    return hmm_atomic_cas<hmm_scope::device>(address, compare, value);                                       \
  }                                                                                                          \
  HMM_INLINE T atomicCAS_block(T* address, T compare, T value) {                                             \
    return hmm_atomic_cas<hmm_scope::block>(address, compare, value);                                        \
  }                                                                                                          \
  HMM_INLINE T atomicCAS_system(T* address, T compare, T value) {                                            \
    return hmm_atomic_cas<hmm_scope::system>(address, compare, value);                                       \
  }
HMM_ATOMIC_CAS(int)
HMM_ATOMIC_CAS(unsigned int)
HMM_ATOMIC_CAS(unsigned long long)
#undef HMM_ATOMIC_CAS
// CUDA has the 16-bit one for device scope only.
HMM_INLINE unsigned short atomicCAS(unsigned short* address, unsigned short compare, unsigned short value) {
  return hmm_atomic_cas<hmm_scope::device>(address, compare, value);
}

} // namespace hmm_cuda
