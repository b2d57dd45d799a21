// The driver's pure functions, as Python sees them: tests explore exactly what the driver runs.
#include "bind/bind.h"
#include "driver/growth.h"
#include "driver/thrashing.h"
#include "protocol/transition.h"
#include <bit>
#include <memory>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <optional>

namespace nb = nanobind;
using namespace hmm;

namespace {

const char* name_of(Step step) {
  switch (step) {
  case Step::None:
    return "none";
  case Step::Notify:
    return "notify";
  case Step::Admit:
    return "admit";
  case Step::Recall:
    return "recall";
  case Step::Home:
    return "home";
  case Step::Remote:
    return "remote";
  case Step::Exclude:
    return "exclude";
  case Step::FirstTouch:
    return "first_touch";
  case Step::Duplicate:
    return "duplicate";
  case Step::Migrate:
    return "migrate";
  case Step::Upgrade:
    return "upgrade";
  case Step::Drop:
    return "drop";
  }
  return "?";
}

Processor checked(unsigned p) {
  if (p >= kMaxProcessors) throw Failure(FailureKind::Range, "there are 16 processors, 0 to 15");
  return p;
}

Access access_of(const std::string& name) {
  if (name == "read") return Access::Read;
  if (name == "write") return Access::Write;
  if (name == "atomic") return Access::Atomic;
  if (name == "own") return Access::Own;
  if (name == "alone") return Access::Alone;
  if (name == "share") return Access::Share;
  throw Failure(FailureKind::Error, "an access is read, write, atomic, own, alone or share, not " + name);
}

nb::tuple py_transition(uint64_t word, unsigned p, const std::string& access, bool read_duplication,
                        bool all_caught) {
  Transition t = transition(PageState(word), checked(p), access_of(access), {read_duplication, all_caught});
  return nb::make_tuple(name_of(t.step), t.source, t.protect, t.zap, t.next.word());
}

nb::tuple py_eviction(uint64_t word, unsigned p) {
  Transition t = eviction(PageState(word), checked(p));
  return nb::make_tuple(name_of(t.step), t.source, t.protect, t.zap, t.next.word());
}

nb::tuple py_settling(uint64_t word, bool write) {
  const Settling s = settling(PageState(word), write ? Access::Write : Access::Read);
  return nb::make_tuple(s.show, s.protect, s.zap, s.next.word());
}

std::optional<std::string> py_broken_rule(uint64_t word) {
  const char* rule = broken_rule(PageState(word));
  return rule ? std::optional<std::string>(rule) : std::nullopt;
}

std::pair<uint64_t, uint64_t> py_grow(const std::vector<uint64_t>& words, unsigned page, unsigned p,
                                      unsigned threshold, unsigned first_pages) {
  if (words.size() != kPagesPerBlock || page >= kPagesPerBlock)
    throw Failure(FailureKind::Range, "a block has 512 pages");
  if (!std::has_single_bit(first_pages) || first_pages > kPagesPerBlock)
    throw Failure(FailureKind::Range, "a fault begins with a power of two of pages, 512 at most");
  auto block = std::make_unique<Block>();
  for (unsigned i = 0; i < kPagesPerBlock; ++i) block->pages[i] = PageState(words[i]);
  Pages pages = grow(*block, page * kPage, checked(p), {true, threshold, first_pages});
  return {pages.begin / kPage, pages.end / kPage};
}

nb::tuple py_thrashing_fault(Thrashing& t, unsigned p, uint64_t page, uint64_t now, bool patient, bool used) {
  const Thrashing::Advice advice =
      t.fault({}, checked(p), page, now, patient, [used](Processor, uint64_t) { return used; });
  return nb::make_tuple(advice.wait_until, advice.single, advice.pin);
}

std::vector<uint64_t> py_ends_of_pin(Thrashing& t, uint64_t now) {
  std::vector<uint64_t> pages;
  t.each_end_of_pin(now, [&](uint64_t page) { pages.push_back(page); });
  return pages;
}

} // namespace

void bind_protocol(nb::module_& m) {
  m.def("transition", &py_transition, nb::arg("state"), nb::arg("processor"), nb::arg("access"),
        nb::arg("read_duplication") = true, nb::arg("all_caught") = false,
        "(step, source, protect, zap mask, next state) for one access; see native/protocol/transition.h.");
  m.def("eviction", &py_eviction, nb::arg("state"), nb::arg("processor"),
        "As transition, when a device gives up its copy.");
  m.def("settling", &py_settling, nb::arg("other"), nb::arg("write"),
        "(show, protect, zap mask, next state) of another owner of a page, before an access.");
  m.def("broken_rule", &py_broken_rule, nb::arg("state"), "The rule that a page state breaks, or None.");
  nb::class_<Thrashing>(m, "Thrashing")
      .def(nb::init<>())
      .def("fault", &py_thrashing_fault, nb::arg("processor"), nb::arg("page"), nb::arg("now"),
           nb::arg("patient") = true, nb::arg("used") = true,
           "(wait until, no neighbours, better pinned) for a fault that takes a page from others.")
      .def("pin", [](Thrashing& t, uint64_t page, uint64_t now) { t.pin({}, page, now); })
      .def("ends_of_pin", &py_ends_of_pin, "Pages whose pin has ended; told once.");
  m.def("grow", &py_grow, nb::arg("states"), nb::arg("page"), nb::arg("processor"), nb::arg("threshold") = 51,
        nb::arg("first_pages") = 1, "Pages [first, end) of a 512-page block that a fault at `page` brings.");
  nb::class_<FaultHistory>(m, "FaultHistory")
      .def(nb::init<>())
      .def("pages", &FaultHistory::pages, nb::arg("round"), "With how many pages a fault begins: 1, 16, 512.")
      .def("fault", &FaultHistory::fault, nb::arg("round"), nb::arg("page"), nb::arg("granted"),
           "A fault of the CPU on a page (0 to 511), which got `granted` pages.")
      .def("taken", &FaultHistory::taken, "A device asks for the block again.");
}
