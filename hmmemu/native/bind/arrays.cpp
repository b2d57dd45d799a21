// hmmemu._native.memory_of: where an array's elements lie, by the buffer protocol; no state, no lock. What
// numpy's own attributes answer in several steps (ctypes.data, flags, byte_bounds) is asked three times and
// more in every launch.
#include "bind/bind.h"
#include <cstdint>
#include <nanobind/stl/tuple.h>
#include <tuple>

namespace nb = nanobind;

namespace {

using Memory = std::tuple<uint64_t, uint64_t, uint64_t>; // of the first element; begin, end of all of them

// Asks for no format, which numpy has not for every dtype (datetime64), and not to write.
Memory memory_of(nb::handle array) {
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_STRIDED_RO) != 0) throw nb::python_error();
  const auto address = reinterpret_cast<uint64_t>(view.buf);
  uint64_t begin = address, end = address + static_cast<uint64_t>(view.itemsize);
  bool empty = false;
  for (int i = 0; i < view.ndim; ++i) {
    const int64_t last = (view.shape[i] - 1) * view.strides[i]; // bytes to the last one of this dimension
    (last < 0 ? begin : end) += static_cast<uint64_t>(last);
    empty |= view.shape[i] == 0;
  }
  PyBuffer_Release(&view);
  return empty ? Memory(address, 0, 0) : Memory(address, begin, end);
}

} // namespace

void bind_arrays(nb::module_& m) {
  m.def("memory_of", &memory_of, nb::arg("array"),
        "(address of the first element, begin, end) of an array's bytes, strides of either sign included; "
        "(address, 0, 0) of an array without elements.");
}
