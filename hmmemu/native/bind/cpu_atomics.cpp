// Atomic operations of the CPU on one word, for Python: hmmemu/cpu_atomics.py, which checks everything first.
//
// Every one is sequentially consistent, and a single instruction or a loop of compare-and-swap: on private
// memory, on a frame that a device has mapped, and on a page that is away, which the first touch brings back.
//
// GIL: a single operation holds it. It takes nanoseconds or a page fault; whoever serves that needs no GIL
// (driver/driver.h), so no thread that waits for the GIL can be in the way. To let go of it would cost more:
// another Python thread takes it then and keeps it for its whole switch interval (5 ms). Many operations in a
// row let go of it, and so are what the threads of a C++ program would do.
// No state, so no lock.
#include "bind/bind.h"
#include "bind/unlocked.h"
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <nanobind/stl/string_view.h>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace nb = nanobind;

namespace {

// IEEE 754 binary16. Not _Float16, which not every compiler has in C++. A sum of two is exact in double, and
// rounded once.
struct Half {
  uint16_t bits;
};

double to_double(Half half) {
  const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
  double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  if (exponent == 31) size = fraction ? std::numeric_limits<double>::quiet_NaN() : HUGE_VAL;
  return half.bits >> 15 ? -size : size;
}

// To the nearest, ties to even, as nearbyint does.
Half to_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(value);
  if (std::isnan(value)) return {uint16_t(sign | 0x7e00)};
  if (size >= 65520) return {uint16_t(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(size, &exponent); // size < 2 ** exponent
  const int step = size < 0x1p-14 ? -24 : exponent - 11;
  const double steps = std::nearbyint(std::ldexp(size, -step)); // 1024 to 2048, or fewer: subnormal
  return {uint16_t(sign + ((step + 24) << 10) + unsigned(steps))};
}

Half operator+(Half a, Half b) { return to_half(to_double(a) + to_double(b)); }
Half operator-(Half a, Half b) { return to_half(to_double(a) - to_double(b)); }
bool operator<(Half a, Half b) { return to_double(a) < to_double(b); }

template <int bytes> struct WordOf;
template <> struct WordOf<1> {
  using type = uint8_t;
};
template <> struct WordOf<2> {
  using type = uint16_t;
};
template <> struct WordOf<4> {
  using type = uint32_t;
};
template <> struct WordOf<8> {
  using type = uint64_t;
};
template <class T> using Word = typename WordOf<sizeof(T)>::type;
template <class T> constexpr bool is_float = !std::is_integral_v<T>;

constexpr int kOrder = __ATOMIC_SEQ_CST;

// Stores what `next` makes of the old value.
template <class T, class Next> Word<T> loop(Word<T>* word, Next next) {
  Word<T> seen = __atomic_load_n(word, kOrder);
  for (;;) {
    const Word<T> wanted = std::bit_cast<Word<T>>(next(std::bit_cast<T>(seen)));
    if (__atomic_compare_exchange_n(word, &seen, wanted, false, kOrder, kOrder)) return seen;
  }
}

// An operation: `takes<T>` says whether it is one of numbers like T; `run` gives the old value. All integers
// wrap. The ones that there are no instructions for are what they are in kernels (cuda/atomics.h).
#define HMM_FETCH(name, condition)                                                                           \
  struct Op_##name {                                                                                         \
    template <class T> static constexpr bool takes = condition;                                              \
    template <class T> static Word<T> run(Word<T>* word, Word<T> value, Word<T>) {                           \
      return __atomic_fetch_##name(word, value, kOrder);                                                     \
    }                                                                                                        \
  };
HMM_FETCH(and, !is_float<T>)
HMM_FETCH(or, !is_float<T>)
HMM_FETCH(xor, !is_float<T>)
#undef HMM_FETCH
#define HMM_SUM(name, sign)                                                                                  \
  struct Op_##name {                                                                                         \
    template <class T> static constexpr bool takes = true;                                                   \
    template <class T> static Word<T> run(Word<T>* word, Word<T> value, Word<T>) {                           \
      if constexpr (is_float<T>)                                                                             \
        return loop<T>(word, [v = std::bit_cast<T>(value)](T old) { return old sign v; });                   \
      else                                                                                                   \
        return __atomic_fetch_##name(word, value, kOrder);                                                   \
    }                                                                                                        \
  };
HMM_SUM(add, +)
HMM_SUM(sub, -)
#undef HMM_SUM
#define HMM_LOOP(name, condition, expression)                                                                \
  struct Op_##name {                                                                                         \
    template <class T> static constexpr bool takes = condition;                                              \
    template <class T> static Word<T> run(Word<T>* word, Word<T> value, Word<T>) {                           \
      return loop<T>(word, [v = std::bit_cast<T>(value)](T old) { return expression; });                     \
    }                                                                                                        \
  };
HMM_LOOP(min, true, v < old ? v : old)
HMM_LOOP(max, true, old < v ? v : old)
HMM_LOOP(inc, std::is_unsigned_v<T>, old >= v ? T(0) : T(old + 1))
HMM_LOOP(dec, std::is_unsigned_v<T>, old == 0 || old > v ? v : T(old - 1))
#undef HMM_LOOP
struct Op_exch {
  template <class T> static constexpr bool takes = true;
  template <class T> static Word<T> run(Word<T>* word, Word<T> value, Word<T>) {
    return __atomic_exchange_n(word, value, kOrder);
  }
};
struct Op_cas {
  template <class T> static constexpr bool takes = true;
  template <class T> static Word<T> run(Word<T>* word, Word<T> value, Word<T> compare) {
    __atomic_compare_exchange_n(word, &compare, value, false, kOrder, kOrder);
    return compare;
  }
};
struct Op_load {
  template <class T> static constexpr bool takes = true;
  template <class T> static Word<T> run(Word<T>* word, Word<T>, Word<T>) {
    return __atomic_load_n(word, kOrder);
  }
};
struct Op_store {
  template <class T> static constexpr bool takes = true;
  template <class T> static Word<T> run(Word<T>* word, Word<T> value, Word<T>) {
    __atomic_store_n(word, value, kOrder);
    return value;
  }
};

// Calls visit.operator()<Kind>() for the kind of that name. False: there is none.
template <class... Kinds, class Visit>
bool choose(std::string_view name, const std::string_view (&names)[sizeof...(Kinds)], Visit visit) {
  const std::string_view* at = names;
  return ((*at++ == name && (visit.template operator()<Kinds>(), true)) || ...);
}

struct Call {
  void* address;
  std::string_view value, compare; // bytes of one element each
  uint64_t count;
};

template <class W> W word_in(std::string_view bytes) {
  if (bytes.size() != sizeof(W)) throw std::invalid_argument("an operand has not the size of an element");
  W word;
  std::memcpy(&word, bytes.data(), sizeof(W));
  return word;
}

template <class Op, class T> nb::bytes run(const Call& call) {
  Word<T>* word = static_cast<Word<T>*>(call.address);
  if (reinterpret_cast<uintptr_t>(word) % sizeof(T))
    throw std::invalid_argument("the address is not aligned");
  const Word<T> value = word_in<Word<T>>(call.value), compare = word_in<Word<T>>(call.compare);
  Word<T> old;
  if (call.count == 1) {
    old = Op::template run<T>(word, value, compare);
  } else {
    const Unlocked released;
    for (uint64_t i = 0; i < call.count; ++i) old = Op::template run<T>(word, value, compare);
  }
  return nb::bytes(reinterpret_cast<const char*>(&old), sizeof old);
}

template <class Op> bool run_on(std::string_view type, const Call& call, nb::object& old) {
  return choose<int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, Half, float,
                double>(type, {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"},
                        [&]<class T>() {
                          if constexpr (Op::template takes<T>) old = run<Op, T>(call);
                        });
}

// The memory of a Python object that has the buffer protocol.
class Memory {
 public:
  Memory(nb::handle object, bool writable) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE))
      throw nb::python_error();
  }
  ~Memory() { PyBuffer_Release(&buffer_); }
  Memory(const Memory&) = delete;
  void* data() const { return buffer_.buf; }
  size_t size() const { return static_cast<size_t>(buffer_.len); }

 private:
  Py_buffer buffer_;
};

nb::object cpu_atomic(std::string_view operation, std::string_view type, nb::handle element, nb::bytes value,
                      nb::bytes compare, uint64_t count) {
  const Memory memory(element, operation != "load");
  if (memory.size() != value.size() || count == 0)
    throw nb::value_error("one element, and a count of 1 or more");
  const Call call{memory.data(), {value.c_str(), value.size()}, {compare.c_str(), compare.size()}, count};
  nb::object old;
  choose<Op_load, Op_store, Op_exch, Op_cas, Op_add, Op_sub, Op_min, Op_max, Op_inc, Op_dec, Op_and, Op_or,
         Op_xor>(
      operation,
      {"load", "store", "exch", "cas", "add", "sub", "min", "max", "inc", "dec", "and", "or", "xor"},
      [&]<class Op>() { run_on<Op>(type, call, old); });
  if (!old.is_valid()) throw nb::value_error("there is no such operation on this type");
  return old;
}

} // namespace

void bind_cpu_atomics(nb::module_& m) {
  m.def("cpu_atomic", &cpu_atomic, nb::arg("operation"), nb::arg("type"), nb::arg("element"),
        nb::arg("value"), nb::arg("compare"), nb::arg("count") = 1,
        "An atomic operation of the CPU on an array of one element, `count` times in a row; the old value of "
        "the last. `type` is 'i4' or the like; operands and result are an element's bytes. Without the GIL "
        "if count > 1.");
}
