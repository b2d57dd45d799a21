// Pages of files, as Python sees them: the parts of hmmemu._native.Session that take a file. Offsets and
// sizes are bytes. The GIL is released in every call that waits.
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "driver/session.h"
#include <cerrno>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace hmm;

namespace {

FileMapping mapping(uint64_t begin, uint64_t end, uint64_t offset) { return {{begin, end}, offset}; }

void raise(int error) {
  if (!error) return;
  errno = error;
  PyErr_SetFromErrno(PyExc_OSError);
  throw nb::python_error();
}

void write_file(Session& s, int fd, uint64_t begin, uint64_t end, uint64_t mapped_from, uint64_t offset,
                uint64_t data, uint64_t bytes) {
  int error;
  {
    Unlocked release;
    error = s.driver()->write_file(fd, mapping(begin, end, mapped_from), offset,
                                   reinterpret_cast<const void*>(data), bytes);
  }
  raise(error);
}

void truncate_file(Session& s, int fd, uint64_t begin, uint64_t end, uint64_t mapped_from, uint64_t bytes) {
  int error;
  {
    Unlocked release;
    const FileMapping file = mapping(begin, end, mapped_from);
    error = s.driver()->truncate_file(fd, file, bytes);
    if (!error) error = s.driver()->show_again(fd, file, bytes);
  }
  raise(error);
}

// Runs in the main thread, with the GIL, soon after a SIGBUS was turned into a page of zeros.
int tell_python(void*) {
  try {
    nb::module_::import_("hmmemu.truncation").attr("tell")();
    return 0;
  } catch (nb::python_error& error) {
    error.restore();
    return -1;
  }
}

// In the signal handler. A fault of a load or store cannot have interrupted the interpreter's own queue.
void schedule() { Py_AddPendingCall(&tell_python, nullptr); }

} // namespace

void bind_files(nb::class_<Session>& session) {
  Driver::on_beyond_end(&schedule);
  session.def("write_file", &write_file, nb::arg("fd"), nb::arg("begin"), nb::arg("end"),
              nb::arg("mapped_from"), nb::arg("offset"), nb::arg("data"), nb::arg("bytes"));
  session.def("truncate_file", &truncate_file, nb::arg("fd"), nb::arg("begin"), nb::arg("end"),
              nb::arg("mapped_from"), nb::arg("bytes"));
  session.def("reload", [](Session& s, uint64_t begin, uint64_t end) {
    Unlocked release;
    return s.driver()->reload({begin, end});
  });
  session.def("show_again",
              [](Session& s, int fd, uint64_t begin, uint64_t end, uint64_t offset, uint64_t size) {
                int error;
                {
                  Unlocked release;
                  error = s.driver()->show_again(fd, mapping(begin, end, offset), size);
                }
                raise(error);
              });
  session.def("fresh", [](Session& s, uint64_t begin, uint64_t end) {
    std::vector<std::pair<uint64_t, uint64_t>> result;
    for (Pages run : s.driver()->unowned({begin, end})) result.push_back({run.begin, run.end});
    return result;
  });
}

void bind_truncations(nb::module_& m) { m.def("take_truncations", &Driver::take_beyond_end); }
