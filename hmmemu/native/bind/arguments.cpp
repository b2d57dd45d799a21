// Purpose, lock: arguments.h. Types are compared, not tested for subclasses, which may be anything.
#include "bind/arguments.h"
#include <cstring>
#include <string_view>

namespace nb = nanobind;

namespace hmm {
namespace {

bool is_one_of(const nb::tuple& types, PyTypeObject* type) {
  for (nb::handle each : types)
    if (each.ptr() == reinterpret_cast<PyObject*>(type)) return true;
  return false;
}

// An attribute; nothing without one.
nb::object attribute(PyObject* object, PyObject* name) {
  PyObject* const found = PyObject_GetAttr(object, name);
  if (!found) PyErr_Clear();
  return nb::steal(found);
}

// Where the elements lie (bind/arrays.cpp). False: there are none, or the array is read-only, which tells too
// little where it is to be written or shared.
bool find_memory(ArrayArgument& found, uint64_t& address) {
  Py_buffer view;
  if (PyObject_GetBuffer(found.array, &view, PyBUF_STRIDED_RO) != 0) {
    PyErr_Clear();
    return false;
  }
  address = reinterpret_cast<uint64_t>(view.buf);
  found.begin = address;
  found.end = address + static_cast<uint64_t>(view.itemsize);
  bool good = view.itemsize > 0 && !(view.readonly && (found.writes || found.shares));
  for (int i = 0; i < view.ndim; ++i) {
    const int64_t last = (view.shape[i] - 1) * view.strides[i];
    (last < 0 ? found.begin : found.end) += static_cast<uint64_t>(last);
    good &= view.shape[i] != 0;
  }
  PyBuffer_Release(&view);
  return good;
}

bool has_top_bit(const unsigned char* at, uint32_t size) { return at[size - 1] & 0x80; }

} // namespace

Arguments::Arguments(const nb::list& parameters, nb::object array, nb::object in, nb::object in_out)
    : array_(std::move(array)), in_(std::move(in)), in_out_(std::move(in_out)) {
  for (nb::handle each : parameters) {
    const auto get = [&](const char* name) { return each[name]; };
    parameters_.push_back({.kind = kind_of(nb::cast<const char*>(get("kind"))),
                           .offset = nb::cast<uint32_t>(get("offset")),
                           .size = nb::cast<uint32_t>(get("size")),
                           .is_signed = nb::cast<bool>(get("is_signed")),
                           .writes = nb::cast<bool>(get("writes")),
                           .shares = nb::cast<bool>(get("shares")),
                           .refuses_arrays = nb::cast<bool>(get("refuses_arrays")),
                           .fits = nb::borrow(get("fits")),
                           .fitting = nb::none(),
                           .same = nb::cast<nb::tuple>(get("same")),
                           .others = nb::cast<nb::tuple>(get("others"))});
  }
}

Arguments::Kind Arguments::kind_of(const char* name) {
  const std::string_view kind = name;
  return kind == "pointer"    ? Kind::pointer
         : kind == "integer"  ? Kind::integer
         : kind == "floating" ? Kind::floating
         : kind == "bool"     ? Kind::boolean
                              : Kind::other;
}

bool Arguments::pack(PyObject* values, unsigned char* block, std::vector<ArrayArgument>& arrays) {
  if (PyTuple_GET_SIZE(values) != static_cast<Py_ssize_t>(parameters_.size())) return false;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = parameters_[i];
    PyObject* const value = PyTuple_GET_ITEM(values, static_cast<Py_ssize_t>(i));
    unsigned char* const at = block + parameter.offset;
    if (!(parameter.kind == Kind::pointer ? pack_pointer(parameter, value, at, arrays)
                                          : pack_scalar(parameter, value, at)))
      return false;
  }
  return true;
}

bool Arguments::pack_pointer(Parameter& parameter, PyObject* value, unsigned char* at,
                             std::vector<ArrayArgument>& arrays) {
  if (value == Py_None) return true; // the block is of zeros
  ArrayArgument found{value, 0, 0, parameter.writes, parameter.shares};
  nb::object inner;
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
  if (type == in_.ptr() || type == in_out_.ptr()) {
    found.writes = type == in_out_.ptr();
    static PyObject* const name = PyUnicode_InternFromString("array");
    inner = attribute(value, name); // which it keeps
    if (!inner.is_valid()) return false;
    found.array = inner.ptr();
  }
  if (reinterpret_cast<PyObject*>(Py_TYPE(found.array)) != array_.ptr() || parameter.refuses_arrays)
    return false;
  uint64_t address = 0;
  if (!fits(parameter, found.array) || !find_memory(found, address)) return false;
  memcpy(at, &address, sizeof address);
  arrays.push_back(found);
  return true;
}

nb::object Arguments::root(PyObject* array) const {
  static PyObject* const name = PyUnicode_InternFromString("base");
  auto* const arrays = reinterpret_cast<PyTypeObject*>(array_.ptr());
  nb::object owner = nb::borrow(array);
  for (;;) {
    nb::object base = attribute(owner.ptr(), name);
    if (!base.is_valid() || !PyObject_TypeCheck(base.ptr(), arrays)) return base.is_valid() ? owner : base;
    owner = std::move(base);
  }
}

// Element types are few, and each is one object.
bool Arguments::fits(Parameter& parameter, PyObject* array) {
  static PyObject* const name = PyUnicode_InternFromString("dtype");
  const nb::object dtype = attribute(array, name);
  if (!dtype.is_valid()) return false;
  if (dtype.is(parameter.fitting)) return true;
  const nb::object answer = nb::steal(PyObject_CallOneArg(parameter.fits.ptr(), dtype.ptr()));
  if (answer.ptr() != Py_True) return false;
  parameter.fitting = dtype;
  return true;
}

bool Arguments::pack_scalar(const Parameter& parameter, PyObject* value, unsigned char* at) {
  PyTypeObject* const type = Py_TYPE(value);
  if (parameter.kind == Kind::integer && type == &PyLong_Type) return pack_int(parameter, value, at);
  if (parameter.kind == Kind::floating && type == &PyFloat_Type && parameter.size == sizeof(double)) {
    const double number = PyFloat_AS_DOUBLE(value);
    memcpy(at, &number, sizeof number);
    return true;
  }
  if (parameter.kind == Kind::boolean && type == &PyBool_Type && parameter.size == 1) {
    *at = value == Py_True;
    return true;
  }
  const bool other = is_one_of(parameter.others, type);
  if (!other && !is_one_of(parameter.same, type)) return false;
  Py_buffer view;
  if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    return false;
  }
  const bool good = view.len == static_cast<Py_ssize_t>(parameter.size);
  if (good) memcpy(at, view.buf, parameter.size);
  PyBuffer_Release(&view);
  return good && !(other && has_top_bit(at, parameter.size)); // a number that the signed type has not
}

// Whatever is in range: -1 for an unsigned one, too, as `arguments.pack` has it.
bool Arguments::pack_int(const Parameter& parameter, PyObject* value, unsigned char* at) {
  int overflow = 0;
  const int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
  if (overflow || parameter.size > sizeof number) return false;
  if (parameter.size < sizeof number) {
    const unsigned bits = 8 * parameter.size;
    const int64_t end = int64_t{1} << (parameter.is_signed || number < 0 ? bits - 1 : bits);
    if (number >= end || number < -end) return false;
  }
  memcpy(at, &number, parameter.size);
  return true;
}

} // namespace hmm
