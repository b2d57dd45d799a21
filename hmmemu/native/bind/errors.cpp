// C++ failures become the classes of hmmemu.errors.
#include "base/failure.h"
#include "bind/bind.h"

namespace nb = nanobind;

namespace {

const char* class_of(hmm::FailureKind kind) {
  switch (kind) {
  case hmm::FailureKind::Unsupported:
    return "UnsupportedError";
  case hmm::FailureKind::Closed:
    return "SpaceClosedError";
  case hmm::FailureKind::Range:
    return "RangeError";
  case hmm::FailureKind::OutOfMemory:
    return "OutOfMemoryError";
  case hmm::FailureKind::Device:
    return "DeviceError";
  case hmm::FailureKind::Truncated:
    return "TruncatedError";
  case hmm::FailureKind::Error:
    break;
  }
  return "Error";
}

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const hmm::Failure& failure) {
    nb::object type = nb::module_::import_("hmmemu.errors").attr(class_of(failure.kind));
    PyErr_SetString(type.ptr(), failure.what());
  }
}

} // namespace

void bind_errors(nb::module_&) { nb::register_exception_translator(translate); }
