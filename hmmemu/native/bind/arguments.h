// A kernel's arguments, from Python objects to the parameter block, where nothing has to be said about them.
//
// What is allowed, and what is said otherwise, is known to hmmemu/arguments.py alone. Here is what nearly all
// arguments are: numpy arrays, also as hmm.In and hmm.InOut, NumPy scalars of the parameter's own size,
// Python numbers, None. For all else the answer is "not here", and `arguments.pack` looks at them.
//
// LOCK: the GIL.
#pragma once
#include "bind/bind.h"
#include <cstdint>
#include <vector>

namespace hmm {

// An array among the arguments: where its elements lie, and what the kernel does there.
struct ArrayArgument {
  PyObject* array;     // borrowed from the arguments
  uint64_t begin, end; // bytes
  bool writes, shares; // shares: with the CPU, which uses it while the kernel runs
};

class Arguments {
 public:
  // parameters: dictionaries as hmmemu/repeated_launch.py makes them. The others are types: numpy's array,
  // hmm.In and hmm.InOut.
  Arguments(const nanobind::list& parameters, nanobind::object array, nanobind::object in,
            nanobind::object in_out);

  // Fills a block of zeros, and adds the arrays. False: not here; then an error may be set, by Python code
  // that was called. `values`: a tuple.
  bool pack(PyObject* values, unsigned char* block, std::vector<ArrayArgument>& arrays);

  // The array that owns, or first wrapped, the memory of a view; see hmmemu/ranges.py. Nothing if it does not
  // say.
  nanobind::object root(PyObject* array) const;

 private:
  enum class Kind { pointer, integer, floating, boolean, other };
  struct Parameter {
    Kind kind;
    uint32_t offset, size;
    bool is_signed, writes, shares;
    bool refuses_arrays;          // each needs a closer look
    nanobind::object fits;        // of a pointer: called with a dtype
    nanobind::object fitting;     // the dtype that it said yes to last
    nanobind::tuple same, others; // types of NumPy scalars; `others` are unsigned ones for a signed parameter
  };
  static Kind kind_of(const char* name);
  bool pack_pointer(Parameter& parameter, PyObject* value, unsigned char* at,
                    std::vector<ArrayArgument>& arrays);
  static bool pack_scalar(const Parameter& parameter, PyObject* value, unsigned char* at);
  static bool pack_int(const Parameter& parameter, PyObject* value, unsigned char* at);
  static bool fits(Parameter& parameter, PyObject* array);

  std::vector<Parameter> parameters_;
  nanobind::object array_, in_, in_out_; // types
};

} // namespace hmm
