// CUDA's atomic functions, on memory that several workers and processes may share.
//
// Every one is hmm_atomic<Operation, scope>(address, operand...): relaxed order, returns the old value.
// Integer operations that the CPU has are one instruction; the others repeat compare-and-swap, which is one
// itself. All of system scope go through hmm::system_atomic, and nowhere else. All look at the address's
// alignment first (atomic_errors.h).
//
// In a block's shared memory, and in block scope, no other CPU thread can be at work, since a block's threads
// all run on one: there hmm_atomic_local<Operation> does the same without a locked instruction. It stays a
// relaxed atomic load and store, so that no compiler vectorises it across the threads of a block.
#pragma once

namespace hmm_cuda {

enum class hmm_scope { block, device, system };

template <int bytes> struct hmm_word;
template <> struct hmm_word<1> {
  using type = unsigned char;
};
template <> struct hmm_word<2> {
  using type = unsigned short;
};
template <> struct hmm_word<4> {
  using type = unsigned int;
};
template <> struct hmm_word<8> {
  using type = unsigned long long;
};
template <> struct hmm_word<16> {
  using type = unsigned __int128;
};
template <class T> using hmm_word_of = typename hmm_word<sizeof(T)>::type;
template <class T> inline constexpr bool hmm_is_integer = hmm_arithmetic<T>::value == 1;

// The three accesses to a word. Compilers call a library for 16 bytes, so those are made here: a load in two
// halves is only a guess, which compare-and-swap then checks.
template <class W> HMM_INLINE W hmm_load_word(const W* word) {
  if constexpr (sizeof(W) == 16) {
    const unsigned long long* half = (const unsigned long long*)word;
    unsigned long long low = __atomic_load_n(half, __ATOMIC_RELAXED);
    return (W)__atomic_load_n(half + 1, __ATOMIC_RELAXED) << 64 | low;
  } else {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
  }
}
template <class W> HMM_INLINE void hmm_store_word(W* word, W value) { // where nobody else is at work
  if constexpr (sizeof(W) == 16) {
    unsigned long long* half = (unsigned long long*)word;
    __atomic_store_n(half, (unsigned long long)value, __ATOMIC_RELAXED);
    __atomic_store_n(half + 1, (unsigned long long)(value >> 64), __ATOMIC_RELAXED);
  } else {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
  }
}
template <class W> HMM_INLINE W hmm_compare_and_swap(W* word, W compare, W value) {
  if constexpr (sizeof(W) == 16) {
    return __sync_val_compare_and_swap(word, compare, value);
  } else {
    __atomic_compare_exchange_n(word, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return compare;
  }
}

// An operation gives the new value. `native`: the CPU does the whole on integers of so many bytes, by
// `fetch`. `skips`: an unchanged value need not be written. `moves_bits`: the type does not matter.
#define HMM_OPERATION(name, of, expression)                                                                  \
  struct hmm_op_##name {                                                                                     \
    static constexpr size_t native = 8;                                                                      \
    static constexpr bool skips = false, moves_bits = false;                                                 \
    static constexpr hmm_atomic_op code = of;                                                                \
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
template <class T> HMM_INLINE T hmm_wrapping_sub(T x, T y) {
  if constexpr (hmm_is_integer<T>)
    return (T)((hmm_word_of<T>)x - (hmm_word_of<T>)y);
  else
    return x - y;
}
HMM_OPERATION(add, HMM_ATOMIC_ADD, hmm_wrapping_add(old, v))
HMM_OPERATION(sub, HMM_ATOMIC_ADD, hmm_wrapping_sub(old, v))
HMM_OPERATION(and, HMM_ATOMIC_AND, old& v)
HMM_OPERATION(or, HMM_ATOMIC_OR, old | v)
HMM_OPERATION(xor, HMM_ATOMIC_XOR, old ^ v)
#undef HMM_OPERATION
struct hmm_op_exch {
  static constexpr size_t native = 8;
  static constexpr bool skips = false, moves_bits = true;
  static constexpr hmm_atomic_op code = HMM_ATOMIC_EXCH;
  template <class T> static HMM_INLINE T apply(T, T v) { return v; }
  template <class T> static HMM_INLINE T fetch(T* p, T v) {
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
  }
};
// Compare-and-swap of a word: the only one with two operands.
struct hmm_op_cas {
  static constexpr size_t native = 16;
  static constexpr bool skips = true, moves_bits = true;
  static constexpr hmm_atomic_op code = HMM_ATOMIC_CAS;
  template <class W> static HMM_INLINE W apply(W old, W compare, W value) {
    return old == compare ? value : old;
  }
  template <class W> static HMM_INLINE W fetch(W* p, W compare, W value) {
    return hmm_compare_and_swap(p, compare, value);
  }
};
// The CPU has no instruction for these.
#define HMM_LOOP_OPERATION(name, of, skip, expression)                                                       \
  struct hmm_op_##name {                                                                                     \
    static constexpr size_t native = 0;                                                                      \
    static constexpr bool skips = skip, moves_bits = false;                                                  \
    static constexpr hmm_atomic_op code = of;                                                                \
    template <class T> static HMM_INLINE T apply(T old, T v) { return expression; }                          \
  };
HMM_LOOP_OPERATION(min, HMM_ATOMIC_MIN, true, v < old ? v : old)
HMM_LOOP_OPERATION(max, HMM_ATOMIC_MAX, true, v > old ? v : old)
HMM_LOOP_OPERATION(inc, HMM_ATOMIC_INC, false, old >= v ? (T)0 : (T)(old + 1))
HMM_LOOP_OPERATION(dec, HMM_ATOMIC_DEC, false, old == 0 || old > v ? v : (T)(old - 1))
#undef HMM_LOOP_OPERATION

template <class Operation, class T, class... Operand>
HMM_INLINE T hmm_atomic_loop(T* address, Operand... operand) {
  using W = hmm_word_of<T>;
  W* word = (W*)address;
  W seen = hmm_load_word(word);
  for (;;) {
    T old = __builtin_bit_cast(T, seen);
    W wanted = __builtin_bit_cast(W, Operation::apply(old, operand...));
    if (Operation::skips && sizeof(W) < 16 && wanted == seen) return old;
    W found = hmm_compare_and_swap(word, seen, wanted);
    if (found == seen) return old;
    seen = found;
  }
}

template <class Operation, class T, class... Operand>
HMM_INLINE T hmm_atomic_local(T* address, Operand... operand) {
  using W = hmm_word_of<T>;
  T old = __builtin_bit_cast(T, hmm_load_word((W*)address));
  hmm_store_word((W*)address, __builtin_bit_cast(W, Operation::apply(old, operand...)));
  return old;
}

// Whether only this CPU thread can be at work on the address: a block's shared memory lies in its worker's
// arena.
template <hmm_scope scope> HMM_INLINE bool hmm_is_local(const void* address) {
  if (scope == hmm_scope::block) return true;
  return (size_t)((const unsigned char*)address - hmmemu_worker_self->shared) < HMM_SHARED_BYTES;
}

// The operation on memory that this device holds.
template <class Operation, hmm_scope scope, class T, class... Operand>
HMM_INLINE T hmm_on_device(T* address, Operand... operand) {
  using W = hmm_word_of<T>;
  if (hmm_is_local<scope>(address)) return hmm_atomic_local<Operation>(address, operand...);
  if constexpr (sizeof(T) <= Operation::native && (hmm_is_integer<T> || Operation::moves_bits))
    return __builtin_bit_cast(T, Operation::fetch((W*)address, __builtin_bit_cast(W, operand)...));
  else
    return hmm_atomic_loop<Operation>(address, operand...);
}

} // namespace hmm_cuda

#include "hmmemu/cuda/atomic_errors.h"
#include "hmmemu/cuda/atomic_log.h"
#include "hmmemu/cuda/system_atomics.h"

namespace hmm_cuda {

template <class Operation, hmm_scope scope, int lanes, class T, class... Operand>
HMM_INLINE T hmm_atomic_now(T* address, Operand... operand) {
  if constexpr (scope == hmm_scope::system)
    return hmm::system_atomic<Operation, lanes>(address, operand...);
  else
    return hmm_on_device<Operation, scope>(address, operand...);
}

// The same in a module that counts (atomic_log.h).
template <class Operation, hmm_scope scope, int lanes, class T, class... Operand>
HMM_INLINE T hmm_atomic_counted(T* address, Operand... operand) {
  hmm_worker* w = hmmemu_worker_self;
  if (!w->log || !w->log->next.site) return hmm_atomic_now<Operation, scope, lanes>(address, operand...);
  const hmm_atomic_kind of_site = {w->log->next.site};
  hmm_atomic_kind& kind = w->log->next = of_site;
  kind.operation = hmm::code_of<Operation, T>();
  kind.bytes = sizeof(T);
  kind.lanes = lanes;
  kind.is_signed = hmm::is_signed<T>();
  kind.scope = (unsigned char)scope;
  const unsigned brought = *w->brought;
  const T old = hmm_atomic_now<Operation, scope, lanes>(address, operand...);
  hmm::count_atomic(w, address, hmm::done_as<Operation, scope, lanes>(w, address, *w->brought - brought));
  return old;
}

// `lanes`: of the vector of which this is an element.
template <class Operation, hmm_scope scope, int lanes = 1, class T, class... Operand>
HMM_INLINE T hmm_atomic(T* address, Operand... operand) {
  hmm::check_aligned<sizeof(T)>(hmm::kAtomicNames[hmm::code_of<Operation, T>()], address);
  if constexpr (hmm::kCounts)
    return hmm_atomic_counted<Operation, scope, lanes>(address, operand...);
  else
    return hmm_atomic_now<Operation, scope, lanes>(address, operand...);
}

// Stores `value` if the word is `compare`, bit for bit; returns what it was.
template <hmm_scope scope, class T> HMM_INLINE T hmm_atomic_cas(T* address, T compare, T value) {
  using W = hmm_word_of<T>;
  const W from = __builtin_bit_cast(W, compare), to = __builtin_bit_cast(W, value);
  return __builtin_bit_cast(T, hmm_atomic<hmm_op_cas, scope>((W*)address, from, to));
}

// A function in device, block and system scope; its body uses `scope`.
#define HMM_SCOPES(head, T, name, parameters, ...)                                                           \
  head HMM_INLINE T name parameters {                                                                        \
    constexpr hmm_scope scope = hmm_scope::device;                                                           \
    __VA_ARGS__                                                                                              \
  }                                                                                                          \
  head HMM_INLINE T name##_block parameters {                                                                \
    constexpr hmm_scope scope = hmm_scope::block;                                                            \
    __VA_ARGS__                                                                                              \
  }                                                                                                          \
  head HMM_INLINE T name##_system parameters {                                                               \
    constexpr hmm_scope scope = hmm_scope::system;                                                           \
    __VA_ARGS__                                                                                              \
  }
#define HMM_ATOMIC(name, operation, T)                                                                       \
  HMM_SCOPES(, T, name, (T * address, T value), return hmm_atomic<operation, scope>(address, value);)
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
#undef HMM_ATOMIC_BITS

#define HMM_ATOMIC_CAS(T)                                                                                    \
  HMM_SCOPES(, T, atomicCAS, (T * address, T compare, T value),                                              \
             return hmm_atomic_cas<scope>(address, compare, value);)
HMM_ATOMIC_CAS(int)
HMM_ATOMIC_CAS(unsigned int)
HMM_ATOMIC_CAS(unsigned long long)
#undef HMM_ATOMIC_CAS
// CUDA has the 16-bit one for device scope only.
HMM_INLINE unsigned short atomicCAS(unsigned short* address, unsigned short compare, unsigned short value) {
  return hmm_atomic_cas<hmm_scope::device>(address, compare, value);
}

// What compute capability 9 adds. 128 bits: any type of 16 bytes, aligned so, that is only bits.
template <bool condition> struct hmm_if {};
template <> struct hmm_if<true> {
  using type = int;
};
template <class T>
using hmm_is_wide = typename hmm_if<sizeof(T) == 16 && alignof(T) >= 16 && __is_trivially_copyable(T)>::type;
#define HMM_WIDE_TYPE template <class T, hmm_is_wide<T> = 0>
HMM_SCOPES(HMM_WIDE_TYPE, T, atomicExch, (T * address, T value),
           return hmm_atomic<hmm_op_exch, scope>(address, value);)
HMM_SCOPES(HMM_WIDE_TYPE, T, atomicCAS, (T * address, T compare, T value),
           return hmm_atomic_cas<scope>(address, compare, value);)
#undef HMM_WIDE_TYPE
// Vectors: each element on its own, as CUDA promises no more.
#define HMM_ADD_ELEMENT(member, lanes) hmm_atomic<hmm_op_add, scope, lanes>(&address->member, value.member)
#define HMM_CHECK_VECTOR() hmm::check_aligned<sizeof(value)>("add (vector)", address)
HMM_SCOPES(, float2, atomicAdd, (float2 * address, float2 value), HMM_CHECK_VECTOR(); float2 old;
           old.x = HMM_ADD_ELEMENT(x, 2); old.y = HMM_ADD_ELEMENT(y, 2); return old;)
HMM_SCOPES(, float4, atomicAdd, (float4 * address, float4 value), HMM_CHECK_VECTOR(); float4 old;
           old.x = HMM_ADD_ELEMENT(x, 4); old.y = HMM_ADD_ELEMENT(y, 4); old.z = HMM_ADD_ELEMENT(z, 4);
           old.w = HMM_ADD_ELEMENT(w, 4); return old;)
#undef HMM_ADD_ELEMENT
#undef HMM_ATOMIC

} // namespace hmm_cuda
