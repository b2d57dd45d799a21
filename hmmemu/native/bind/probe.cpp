#include "bind/bind.h"
#include "os/probe.h"
#include "os/userfaultfd.h"
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace {

const char* name_of(hmm::Userfaultfd::Way way) {
  switch (way) {
  case hmm::Userfaultfd::Way::Syscall:
    return "syscall";
  case hmm::Userfaultfd::Way::Device:
    return "dev";
  case hmm::Userfaultfd::Way::UserModeOnly:
    return "user-mode";
  case hmm::Userfaultfd::Way::None:
    break;
  }
  return "none";
}

nb::dict probe() {
  hmm::UserfaultfdProbe found = hmm::probe_userfaultfd();
  nb::dict result;
  result["userfaultfd"] = name_of(found.way);
  result["features"] = nb::cast(found.features);
  result["reason"] = found.reason;
  return result;
}

} // namespace

void bind_probe(nb::module_& m) {
  m.def("probe", &probe,
        "What userfaultfd can do here: {'userfaultfd': way, 'features': [...], 'reason': text}.");
  m.def("why_no_signal_tracker", &hmm::why_no_signal_tracker,
        "Why tracker 'signal' cannot work here, and what to change; empty if it can.");
  m.def("why_no_async_tracker", &hmm::why_no_async_tracker,
        "Why tracker 'async' cannot work here, and what to change; empty if it can.");
}
