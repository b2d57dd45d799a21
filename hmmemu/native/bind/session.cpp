// hmmemu._native.Session: the driver as Python sees it. Addresses and lengths are bytes; ranges are whole
// pages. The GIL is released in every call that can wait for a lock, a copy or a thread.
#include "driver/session.h"
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "device/client/device_process.h"
#include <cstring>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <utility>

namespace nb = nanobind;
using namespace hmm;
using hmmemu::device::DeviceProcess;

namespace {

using Range = std::pair<uint64_t, uint64_t>; // begin, end

Pages pages_of(uint64_t begin, uint64_t end) {
  if (begin % kPage || end % kPage || end < begin || end > (uint64_t{1} << kAddressBits))
    throw Failure(FailureKind::Range, "a range must be whole pages of this process");
  return {begin, end};
}

std::vector<Range> to_python(const std::vector<Pages>& list) {
  std::vector<Range> result;
  for (Pages pages : list) result.push_back({pages.begin, pages.end});
  return result;
}

using Object =
    std::tuple<uint64_t, uint64_t, uint64_t, uint64_t, uint64_t>; // begin, end, offset, device, inode

std::vector<ObjectMapping> objects_of(const std::vector<Object>& list) {
  std::vector<ObjectMapping> result;
  for (auto [begin, end, offset, device, inode] : list)
    result.push_back({pages_of(begin, end), offset, device, inode});
  return result;
}

Processor processor(Session& session, unsigned p) {
  if (p >= session.driver()->processors())
    throw Failure(FailureKind::Range, "there is no processor " + std::to_string(p));
  return p;
}

void check(int error, const char* what) {
  if (!error) return;
  const FailureKind kind = error == ENOMEM || error == ENOSPC  ? FailureKind::OutOfMemory
                           : error == ESRCH                    ? FailureKind::Device
                           : error == EFAULT || error == EPERM ? FailureKind::Range
                           : error == ENXIO || error == EIO    ? FailureKind::Truncated
                                                               : FailureKind::Error;
  const char* why =
      error == ESRCH    ? "the device process has ended"
      : error == EFAULT ? "part of the range is not in the address space, or not mapped any more"
      : error == EPERM  ? "the memory is mapped read-only"
      : error == ENXIO || error == EIO ? "part of the range lies behind the end of a file that was truncated"
                                       : std::strerror(error);
  throw Failure(kind, std::string(what) + ": " + why);
}

Tracker tracker_of(const std::string& name) {
  if (name == "uffd") return Tracker::Uffd;
  if (name == "signal") return Tracker::Signal;
  if (name == "async") return Tracker::Async;
  throw Failure(FailureKind::Unsupported, "there is no tracker " + name);
}

Session* make_session(bool grow, unsigned threshold, bool read_duplication, const std::string& tracker,
                      bool thrashing, uint64_t lapse_ns) {
  return new Session(Policy{{grow, threshold}, {read_duplication}, {.on = thrashing, .lapse = lapse_ns}},
                     tracker_of(tracker));
}

// Without the GIL.
void access_range(Session& s, uint64_t begin, uint64_t end, unsigned p, bool write, unsigned cause) {
  if (cause >= kCauses) throw Failure(FailureKind::Range, "no such cause");
  check(s.driver()->access(pages_of(begin, end), processor(s, p), write ? Access::Write : Access::Read,
                           Cause(cause)),
        write ? "cannot migrate" : "cannot copy");
}

using Use =
    std::tuple<uint64_t, uint64_t, unsigned>; // begin, end, and what it is for: 0 to read, else to write

// One after another, up to the first error.
void access_all(Session& s, const std::vector<Use>& ranges, unsigned p, unsigned cause) {
  for (auto [begin, end, write] : ranges) access_range(s, begin, end, p, write != 0, cause);
}

// First the stores that were not caught: copies that are brought up to date need not be made again. Not so
// for a device that is to have the pages alone: they are taken from the CPU with their content, all of them.
void prefetch(Session& s, uint64_t begin, uint64_t end, unsigned p, bool write) {
  s.driver()->notice_writes(pages_of(begin, end), p != kCpu && !write);
  access_range(s, begin, end, p, write, static_cast<unsigned>(Cause::Prefetch));
}

void transfer(Session& s, unsigned p, uint64_t address, uint64_t bytes, uint64_t data, bool write) {
  if (p == kCpu)
    throw Failure(FailureKind::Range,
                  "processor 0 is the CPU, which reads and writes its memory itself: name a device");
  Unlocked release;
  check(s.driver()->transfer(processor(s, p), address, bytes, reinterpret_cast<void*>(data),
                             write ? Access::Write : Access::Read),
        write ? "device write" : "device read");
}

nb::bytes snapshot(Session& s, uint64_t begin, uint64_t end) {
  const Pages pages = pages_of(begin, end);
  std::vector<uint64_t> words(pages.count());
  {
    Unlocked release;
    s.driver()->snapshot(pages, words.data());
  }
  return nb::bytes(words.data(), words.size() * sizeof(uint64_t));
}

DeviceLink link_of(DeviceProcess& device) {
  DeviceLink link{device.vram(), device.userfaultfd(), {}, &device.port(), &device.port().faults};
  for (auto [thread, cpu] : device.workers()) link.workers.push_back({thread, cpu});
  return link;
}

nb::dict processor_counts(const ProcessorCounters& c) {
  nb::dict d;
  d["read_faults"] = c.read_faults.get();
  d["write_faults"] = c.write_faults.get();
  d["spurious_faults"] = c.spurious_faults.get();
  d["refused_faults"] = c.refused_faults.get();
  d["fault_ns"] = c.fault_ns.get();
  d["first_touch_pages"] = c.first_touch_pages.get();
  d["upgraded_pages"] = c.upgraded_pages.get();
  d["remote_pages"] = c.remote_pages.get();
  d["exclusive_pages"] = c.exclusive_pages.get();
  d["throttles"] = c.throttles.get();
  d["pinned_pages"] = c.pinned_pages.get();
  d["invalidated_pages"] = c.invalidated_pages.get();
  d["evicted_pages"] = c.evicted_pages.get();
  return d;
}

nb::dict transfer_counts(unsigned from, unsigned to, const TransferCounters& c) {
  nb::dict d;
  d["source"] = from;
  d["target"] = to;
  d["moves"] = c.moves.get();
  d["pages"] = c.pages.get();
  d["duplicated_pages"] = c.duplicated_pages.get();
  d["fewest"] = c.fewest.load();
  d["most"] = c.most.load();
  d["ns"] = c.ns.get();
  nb::list causes;
  for (const Count& count : c.by_cause) causes.append(count.get());
  d["by_cause"] = causes;
  return d;
}

nb::dict counters(Session& s) {
  Counters& all = s.driver()->counters();
  nb::list processors, transfers;
  const unsigned n = s.driver()->processors();
  for (unsigned p = 0; p < n; ++p) {
    processors.append(processor_counts(all.processor[p]));
    for (unsigned q = 0; q < n; ++q)
      if (all.transfer[p][q].moves.get()) transfers.append(transfer_counts(p, q, all.transfer[p][q]));
  }
  nb::dict result;
  result["processors"] = processors;
  result["transfers"] = transfers;
  return result;
}

// A registration: `add` makes the memory part of the address space, and the call ends that, when the array
// that owns the memory is gone (as a weak reference's callback) or by hand. It ends what was added and
// nothing else: Ctrl-C may come before Python hears that `add` has ended.
//
// The end is native, and without ever giving up the GIL, because numpy frees the memory before it calls:
// another Python thread must not be given the same addresses, and register them, before the old registration
// has ended here and in every device. What it waits for (driver locks, a device's answer) needs no GIL.
struct RangeGuard {
  nb::object session;
  nb::list devices; // DeviceProcess objects, read when called
  nb::dict table;   // the registry's, from which `key` is removed
  nb::object key;
  Pages pages;
  bool added = false;

  // The runs that nobody owned; nothing if they are not `looked_at` any more.
  std::optional<std::vector<Range>> add(bool shared, bool read_only, bool file, bool huge, bool executable,
                                        bool open, const std::vector<Range>& looked_at,
                                        const std::vector<Object>& objects) {
    const MemoryKind kind{shared, read_only, file, huge, executable, open};
    Session& owner = nb::cast<Session&>(session);
    std::vector<Pages> runs;
    for (auto [begin, end] : looked_at) runs.push_back({begin, end});
    std::optional<std::vector<Pages>> fresh;
    {
      Unlocked release; // a private mapping of a file may have to wait for a kernel
      fresh = owner.driver()->add_range(pages, kind, runs, objects_of(objects));
    }
    if (!fresh) return std::nullopt;
    added = true;
    return to_python(*fresh);
  }

  void operator()(nb::handle) {
    if (!std::exchange(added, false)) return;
    if (table.contains(key)) PyDict_DelItem(table.ptr(), key.ptr());
    Session::Use driver = nb::cast<Session&>(session).last_use();
    if (!driver) return;
    for (Pages run : driver->drop_range(pages))
      for (nb::handle device : devices) unmap_quietly(nb::cast<DeviceProcess&>(device), run);
  }

  static void unmap_quietly(DeviceProcess& device, Pages run) {
    try {
      device.unmap(run.begin, run.bytes());
    } catch (
        const Failure&) { // a process that has ended has nothing mapped, and the next one is told what to map
    }
  }
};

RangeGuard* make_guard(nb::object session, nb::list devices, nb::dict table, nb::object key, uint64_t b,
                       uint64_t e) {
  return new RangeGuard{std::move(session), std::move(devices), std::move(table), std::move(key),
                        pages_of(b, e)};
}

} // namespace

void bind_session(nb::module_& m) {
  nb::class_<RangeGuard>(m, "RangeGuard")
      .def(nb::new_(&make_guard), nb::arg("session"), nb::arg("devices"), nb::arg("table"), nb::arg("key"),
           nb::arg("begin"), nb::arg("end"))
      .def("add", &RangeGuard::add, nb::arg("shared"), nb::arg("read_only"), nb::arg("file"), nb::arg("huge"),
           nb::arg("executable"), nb::arg("open"), nb::arg("looked_at"), nb::arg("objects"),
           "The runs that nobody owned; None if they are not `looked_at` any more.")
      .def("__call__", &RangeGuard::operator(), nb::arg("reference").none());
  m.def(
      "unmap", [](uint64_t b, uint64_t e) { munmap(reinterpret_cast<void*>(b), e - b); },
      "munmap of [begin, end).");
  nb::class_<Session> session(m, "Session");
  bind_files(session);
  session
      .def(nb::new_(&make_session), nb::arg("grow") = true, nb::arg("threshold") = 51,
           nb::arg("read_duplication") = true, nb::arg("tracker") = "uffd", nb::arg("thrashing") = true,
           nb::arg("thrashing_lapse_ns") = 500'000)
      .def_prop_ro("open", &Session::open)
      .def("close", &Session::close, WhileUnlocked())
      .def(
          "make_arena",
          [](Session& s, uint64_t bytes, bool in_file) {
            Pages p = s.driver()->make_arena(bytes, in_file);
            return Range(p.begin, p.end);
          },
          nb::arg("bytes"), nb::arg("in_file") = false)
      .def(
          "allocate", [](Session& s, uint64_t b, uint64_t e) { s.driver()->allocate(pages_of(b, e)); },
          WhileUnlocked())
      .def(
          "free",
          [](Session& s, uint64_t b, uint64_t e) {
            if (Session::Use use = s.use()) use->free(pages_of(b, e));
          },
          WhileUnlocked())
      .def("whole",
           [](Session& s, uint64_t b, uint64_t e) {
             const Pages pages = s.driver()->whole(pages_of(b, e));
             return Range(pages.begin, pages.end);
           })
      .def("access", &access_range, nb::arg("begin"), nb::arg("end"), nb::arg("processor"), nb::arg("write"),
           nb::arg("cause"), WhileUnlocked())
      .def("access_all", &access_all, nb::arg("ranges"), nb::arg("processor"), nb::arg("cause"),
           WhileUnlocked(), "Of ranges (begin, end, write).")
      .def("prefetch", &prefetch, nb::arg("begin"), nb::arg("end"), nb::arg("processor"), nb::arg("write"),
           WhileUnlocked())
      .def(
          "discard", [](Session& s, uint64_t b, uint64_t e) { s.driver()->discard(pages_of(b, e)); },
          WhileUnlocked())
      .def(
          "mark_viewed",
          [](Session& s, uint64_t b, uint64_t e, bool on) { s.driver()->mark_viewed(pages_of(b, e), on); },
          nb::arg("begin"), nb::arg("end"), nb::arg("viewed"), WhileUnlocked(),
          "Whether the program uses a device's memory of the pages by itself: they stay there but for who "
          "asks.")
      .def(
          "notice_writes",
          [](Session& s, uint64_t b, uint64_t e, bool update) {
            s.driver()->notice_writes(pages_of(b, e), update);
          },
          nb::arg("begin"), nb::arg("end"), nb::arg("update") = false, WhileUnlocked())
      .def(
          "notice_all_writes", [](Session& s, bool update) { s.driver()->notice_all_writes(update); },
          nb::arg("update") = false, WhileUnlocked())
      .def("transfer", &transfer, nb::arg("processor"), nb::arg("address"), nb::arg("bytes"), nb::arg("data"),
           nb::arg("write"))
      .def("snapshot", &snapshot, "PageState words of the pages, as bytes (uint64).")
      .def(
          "before_launch",
          [](Session& s, unsigned p, bool waits) { s.driver()->before_launch(processor(s, p), waits); },
          WhileUnlocked())
      .def("after_launch",
           [](Session& s, unsigned p) {
             if (const Session::Use driver = s.use(); driver && p < driver->processors())
               driver->after_launch(static_cast<Processor>(p));
           })
      .def(
          "attach",
          [](Session& s, DeviceProcess& d) {
            const int file = s.driver()->common_frames();
            const Pages arena = s.driver()->arena_in_file();
            if (!d.tell_frames(file, 0, 0, 0) ||
                (!arena.empty() && !d.tell_frames(file, arena.begin, arena.bytes(), arena.begin)))
              throw Failure(FailureKind::Device, "the device process cannot take the CPU's frames");
            return unsigned(s.attach(link_of(d)));
          },
          nb::keep_alive<1, 2>()) // the driver uses its port
      .def(
          "detach", [](Session& s, unsigned p) { s.detach(processor(s, p)); }, WhileUnlocked())
      .def(
          "reattach",
          [](Session& s, unsigned p, DeviceProcess& d) { s.reattach(processor(s, p), link_of(d)); },
          nb::keep_alive<1, 3>())
      .def("take_refusal",
           [](Session& s, unsigned p) {
             auto r = s.driver()->take_refusal(processor(s, p));
             return std::pair<uint64_t, int>(r.address, r.error);
           })
      .def("set_capacity",
           [](Session& s, unsigned p, uint64_t bytes) { s.driver()->set_capacity(processor(s, p), bytes); })
      .def("device_bytes", [](Session& s, unsigned p) { return s.driver()->device_bytes(processor(s, p)); })
      .def("counters", &counters)
      .def("reset_counters", [](Session& s) { s.driver()->counters().reset(); });
}
