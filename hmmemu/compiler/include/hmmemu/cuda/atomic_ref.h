// libcu++'s cuda::atomic_ref and cuda::atomic: atomic operations with a thread scope and a memory order.
//
// Each is one of atomics.h, in relaxed order, with what the memory order asks for before and after it. The
// scope "thread" is a block's: threads of a block share a CPU thread. Only sources that include <cuda/atomic>
// pay for this file.
#pragma once

namespace cuda {

enum thread_scope { thread_scope_system, thread_scope_device, thread_scope_block, thread_scope_thread };

namespace std {
enum memory_order {
  memory_order_relaxed = __ATOMIC_RELAXED,
  memory_order_consume = __ATOMIC_CONSUME,
  memory_order_acquire = __ATOMIC_ACQUIRE,
  memory_order_release = __ATOMIC_RELEASE,
  memory_order_acq_rel = __ATOMIC_ACQ_REL,
  memory_order_seq_cst = __ATOMIC_SEQ_CST
};
} // namespace std
using std::memory_order;
using std::memory_order_acq_rel;
using std::memory_order_acquire;
using std::memory_order_consume;
using std::memory_order_relaxed;
using std::memory_order_release;
using std::memory_order_seq_cst;

// On x86 a locked instruction is a fence by itself, so only the compiler is to be held back.
HMM_INLINE void hmm_order(memory_order order) {
  if (order == memory_order_relaxed) return;
#if defined(__x86_64__)
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

// What no GPU has an instruction for is a loop of compare-and-swap, over a link too: on less than 32 bits, of
// the word around them; and minimum and maximum of floating-point numbers.
template <class Operation, class T>
inline constexpr bool hmm_by_swaps =
    sizeof(T) < 4 || (!hmm_cuda::hmm_is_integer<T> &&
                      (Operation::code == HMM_ATOMIC_MIN || Operation::code == HMM_ATOMIC_MAX));

template <class Operation, hmm_cuda::hmm_scope scope, class T, class... Operand>
HMM_INLINE T hmm_repeat_swaps(T* address, Operand... operand) {
  using V = hmm_cuda::hmm_word_of<T>;
  using W = typename hmm_cuda::hmm_word<(sizeof(T) < 4 ? 4 : sizeof(T))>::type;
  hmm::check_aligned<sizeof(T)>(hmm::kAtomicNames[HMM_ATOMIC_CAS], address);
  const size_t inside = (size_t)address % sizeof(W), shift = 8 * inside; // little-endian
  W* word = (W*)((size_t)address - inside);
  const W mask = (W)(V) ~(V)0 << shift;
  for (W seen = hmm_cuda::hmm_load_word(word);;) {
    const T old = __builtin_bit_cast(T, (V)(seen >> shift));
    const V wanted = __builtin_bit_cast(V, Operation::apply(old, operand...));
    const W found = hmm_cuda::hmm_atomic_cas<scope>(word, seen, (seen & ~mask) | (W)wanted << shift);
    if (found == seen) return old;
    seen = found;
  }
}

// The methods of both; `Self::hmm_at()` is where the value lies.
template <class Self, class T, thread_scope Scope> struct hmm_atomic_methods {
  using value_type = T;
  static constexpr bool is_always_lock_free = true;
  static constexpr hmm_cuda::hmm_scope hmm_scope = Scope == thread_scope_system ? hmm_cuda::hmm_scope::system
                                                   : Scope == thread_scope_device
                                                       ? hmm_cuda::hmm_scope::device
                                                       : hmm_cuda::hmm_scope::block;
  using hmm_word = hmm_cuda::hmm_word_of<T>;

  HMM_INLINE bool is_lock_free() const { return true; }
  HMM_INLINE T load(memory_order order = memory_order_seq_cst) const {
    if constexpr (sizeof(T) == 16) {
      T none{};
      return hmm_compare_and_swap(none, none, order); // what is there already, or nothing, is stored again
    } else {
      hmm::check_aligned<sizeof(T)>("load", at());
      return __builtin_bit_cast(T, __atomic_load_n((hmm_word*)at(), order));
    }
  }
  HMM_INLINE void store(T value, memory_order order = memory_order_seq_cst) const {
    if constexpr (sizeof(T) == 16) {
      exchange(value, order);
    } else {
      hmm::check_aligned<sizeof(T)>("store", at());
      __atomic_store_n((hmm_word*)at(), __builtin_bit_cast(hmm_word, value), order);
    }
  }
  HMM_INLINE operator T() const { return load(); }
  HMM_INLINE T operator=(T value) const {
    store(value);
    return value;
  }

  HMM_INLINE T exchange(T value, memory_order order = memory_order_seq_cst) const {
    return perform<hmm_cuda::hmm_op_exch>(value, order);
  }
  HMM_INLINE bool compare_exchange_strong(T& expected, T desired,
                                          memory_order order = memory_order_seq_cst) const {
    T old = hmm_compare_and_swap(expected, desired, order);
    bool same = __builtin_bit_cast(hmm_word, old) == __builtin_bit_cast(hmm_word, expected);
    if (!same) expected = old;
    return same;
  }
  HMM_INLINE bool compare_exchange_strong(T& expected, T desired, memory_order success, memory_order) const {
    return compare_exchange_strong(expected, desired, success);
  }
  HMM_INLINE bool compare_exchange_weak(T& expected, T desired,
                                        memory_order order = memory_order_seq_cst) const {
    return compare_exchange_strong(expected, desired, order);
  }
  HMM_INLINE bool compare_exchange_weak(T& expected, T desired, memory_order success, memory_order) const {
    return compare_exchange_strong(expected, desired, success);
  }
#define HMM_FETCH(name)                                                                                      \
  HMM_INLINE T fetch_##name(T value, memory_order order = memory_order_seq_cst) const {                      \
    return perform<hmm_cuda::hmm_op_##name>(value, order);                                                   \
  }
  HMM_FETCH(add)
  HMM_FETCH(sub)
  HMM_FETCH(and)
  HMM_FETCH(or)
  HMM_FETCH(xor)
  HMM_FETCH(min)
  HMM_FETCH(max)
#undef HMM_FETCH
  HMM_INLINE T operator+=(T value) const { return fetch_add(value) + value; }
  HMM_INLINE T operator-=(T value) const { return fetch_sub(value) - value; }
  HMM_INLINE T operator&=(T value) const { return fetch_and(value) & value; }
  HMM_INLINE T operator|=(T value) const { return fetch_or(value) | value; }
  HMM_INLINE T operator^=(T value) const { return fetch_xor(value) ^ value; }
  HMM_INLINE T operator++() const { return fetch_add(T(1)) + T(1); }
  HMM_INLINE T operator--() const { return fetch_sub(T(1)) - T(1); }
  HMM_INLINE T operator++(int) const { return fetch_add(T(1)); }
  HMM_INLINE T operator--(int) const { return fetch_sub(T(1)); }

 private:
  HMM_INLINE T* at() const { return static_cast<const Self*>(this)->hmm_at(); }
  template <class Operation> HMM_INLINE T perform(T value, memory_order order) const {
    hmm_order(order);
    T old;
    if constexpr (hmm_by_swaps<Operation, T>)
      old = hmm_repeat_swaps<Operation, hmm_scope>(at(), value);
    else
      old = hmm_cuda::hmm_atomic<Operation, hmm_scope>(at(), value);
    hmm_order(order);
    return old;
  }
  HMM_INLINE T hmm_compare_and_swap(T expected, T desired, memory_order order) const {
    hmm_order(order);
    T old;
    if constexpr (hmm_by_swaps<hmm_cuda::hmm_op_cas, T>) {
      old = __builtin_bit_cast(T, hmm_repeat_swaps<hmm_cuda::hmm_op_cas, hmm_scope>(
                                      (hmm_word*)at(), __builtin_bit_cast(hmm_word, expected),
                                      __builtin_bit_cast(hmm_word, desired)));
    } else {
      old = hmm_cuda::hmm_atomic_cas<hmm_scope>(at(), expected, desired);
    }
    hmm_order(order);
    return old;
  }
};

template <class T, thread_scope Scope = thread_scope_system>
struct atomic_ref : hmm_atomic_methods<atomic_ref<T, Scope>, T, Scope> {
  static_assert(__is_trivially_copyable(T), "cuda::atomic_ref needs a type that is only bits");
  static constexpr size_t required_alignment = sizeof(T);
  HMM_INLINE explicit atomic_ref(T& value) : hmm_address(&value) {}
  atomic_ref(const atomic_ref&) = default;
  atomic_ref& operator=(const atomic_ref&) = delete;
  using hmm_atomic_methods<atomic_ref, T, Scope>::operator=;
  HMM_INLINE T* hmm_at() const { return hmm_address; }

 private:
  T* hmm_address;
};

template <class T, thread_scope Scope = thread_scope_system>
struct alignas(sizeof(T)) atomic : hmm_atomic_methods<atomic<T, Scope>, T, Scope> {
  static_assert(__is_trivially_copyable(T), "cuda::atomic needs a type that is only bits");
  atomic() = default;
  constexpr atomic(T value) : hmm_value(value) {}
  atomic(const atomic&) = delete;
  atomic& operator=(const atomic&) = delete;
  using hmm_atomic_methods<atomic, T, Scope>::operator=;
  HMM_INLINE T* hmm_at() const { return const_cast<T*>(&hmm_value); }

 private:
  T hmm_value;
};

HMM_INLINE void atomic_thread_fence(memory_order order, thread_scope = thread_scope_system) {
  __atomic_thread_fence(order);
}
HMM_INLINE void atomic_signal_fence(memory_order order) { __atomic_signal_fence(order); }

namespace std {
template <class T> using atomic_ref = cuda::atomic_ref<T, thread_scope_system>;
template <class T> using atomic = cuda::atomic<T, thread_scope_system>;
using cuda::atomic_signal_fence;
using cuda::atomic_thread_fence;
} // namespace std

} // namespace cuda
