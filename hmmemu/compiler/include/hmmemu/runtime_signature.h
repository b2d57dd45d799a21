// A kernel's parameters, from the type of its rewritten function: offsets in the parameter block, kinds, the
// call.
#pragma once

template <int... I> struct hmm_ints {};
#if defined(__clang__)
template <class T, T... I> struct hmm_ints_from {
  typedef hmm_ints<int(I)...> type;
};
template <int N> using hmm_count_to = typename __make_integer_seq<hmm_ints_from, int, N>::type;
#else
template <int N> using hmm_count_to = hmm_ints<__integer_pack(N)...>;
#endif

template <class T> struct hmm_is {
  enum { pointer = 0, integer = 0, floating = 0, boolean = 0 };
};
#define HMM_KIND(T, P, I, F, B)                                                                              \
  template <> struct hmm_is<T> {                                                                             \
    enum { pointer = P, integer = I, floating = F, boolean = B };                                            \
  };
HMM_KIND(bool, 0, 0, 0, 1)
HMM_KIND(char, 0, 1, 0, 0)
HMM_KIND(signed char, 0, 1, 0, 0)
HMM_KIND(unsigned char, 0, 1, 0, 0)
HMM_KIND(wchar_t, 0, 1, 0, 0)
HMM_KIND(char16_t, 0, 1, 0, 0)
HMM_KIND(char32_t, 0, 1, 0, 0)
HMM_KIND(short, 0, 1, 0, 0)
HMM_KIND(unsigned short, 0, 1, 0, 0)
HMM_KIND(int, 0, 1, 0, 0)
HMM_KIND(unsigned, 0, 1, 0, 0)
HMM_KIND(long, 0, 1, 0, 0)
HMM_KIND(unsigned long, 0, 1, 0, 0)
HMM_KIND(long long, 0, 1, 0, 0)
HMM_KIND(unsigned long long, 0, 1, 0, 0)
HMM_KIND(float, 0, 0, 1, 0)
HMM_KIND(double, 0, 0, 1, 0)
#undef HMM_KIND

template <class T> struct hmm_pointee {
  static constexpr bool pointer = false, is_const = false;
  static constexpr uint32_t size = 0;
};
template <class T, size_t = sizeof(T)> constexpr uint32_t hmm_size_or_zero(int) { return sizeof(T); }
template <class T> constexpr uint32_t hmm_size_or_zero(...) { return 0; } // void, functions, incomplete types
template <class T> struct hmm_pointee<T*> {
  static constexpr bool pointer = true, is_const = false;
  static constexpr uint32_t size = hmm_size_or_zero<T>(0);
};
template <class T> struct hmm_pointee<const T*> {
  static constexpr bool pointer = true, is_const = true;
  static constexpr uint32_t size = hmm_size_or_zero<const T>(0);
};
// GCC gives sizeof(void) == 1 and the size of a function as 1, with a warning; CUDA programs mean no size by
// them.
template <> struct hmm_pointee<void*> {
  static constexpr bool pointer = true, is_const = false;
  static constexpr uint32_t size = 0;
};
template <> struct hmm_pointee<const void*> {
  static constexpr bool pointer = true, is_const = true;
  static constexpr uint32_t size = 0;
};
template <class R, class... A> struct hmm_pointee<R (*)(A...)> {
  static constexpr bool pointer = true, is_const = false;
  static constexpr uint32_t size = 0;
};

template <class T, bool Enum = __is_enum(T)> struct hmm_signed {
  static constexpr bool value = hmm_is<T>::integer && T(-1) < T(0);
};
template <class T> struct hmm_signed<T, true> {
  static constexpr bool value = hmm_signed<__underlying_type(T)>::value;
};
template <class T> struct hmm_is_number {
  static constexpr bool value = hmm_is<T>::integer;
};
template <class T, bool Number = hmm_is_number<T>::value || __is_enum(T)> struct hmm_sign {
  static constexpr uint32_t value = 0;
};
template <class T> struct hmm_sign<T, true> {
  static constexpr uint32_t value = hmm_signed<T>::value;
};

template <class T> constexpr uint32_t hmm_kind() {
  return hmm_pointee<T>::pointer                ? HMM_PARAM_POINTER
         : hmm_is<T>::boolean                   ? HMM_PARAM_BOOL
         : (hmm_is<T>::integer || __is_enum(T)) ? HMM_PARAM_INTEGER
         : hmm_is<T>::floating                  ? HMM_PARAM_FLOATING
                                                : HMM_PARAM_OTHER;
}

// What the parser knows of a parameter.
struct hmm_written {
  const char *name, *type;
};

template <class... A> struct hmm_params {
  static constexpr int count = sizeof...(A);
  uint32_t offset[count + 1];

  constexpr hmm_params() : offset() {
    const uint32_t size[] = {uint32_t(sizeof(A))..., 0}, align[] = {uint32_t(alignof(A))..., 1};
    uint32_t at = 0;
    for (int i = 0; i < count; ++i) {
      at = (at + align[i] - 1) / align[i] * align[i];
      offset[i] = at, at += size[i];
    }
    offset[count] = at;
  }
};

template <class T> HMM_INLINE T hmm_load(const void* block, uint32_t offset) {
  union Raw {
    T value;
    Raw() {}
    Raw(const Raw& other) : value(other.value) {}
    ~Raw() {}
  } raw;
  __builtin_memcpy(static_cast<void*>(&raw.value), static_cast<const char*>(block) + offset, sizeof(T));
  return raw.value;
}
