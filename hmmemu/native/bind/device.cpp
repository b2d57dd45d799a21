// hmmemu._native.DeviceProcess: an emulated device's process as Python sees it.
// The GIL is released in every call that can wait; long waits wake up to look for signals, so
// Ctrl-C works.
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "device/client/device_process.h"
#include <algorithm>
#include <cmath>
#include <map>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;
using namespace hmmemu::device;

namespace {

using Three = std::array<uint32_t, 3>;
constexpr uint64_t kSlice = 50'000'000; // ns between two looks for signals

hmm_dim3 dim3_of(const Three& d) { return {d[0], d[1], d[2]}; }
nb::tuple tuple_of(const hmm_dim3& d) { return nb::make_tuple(d.x, d.y, d.z); }

uint64_t deadline_of(std::optional<double> seconds) {
  if (!seconds || !(*seconds < 1e9)) return UINT64_MAX;
  return now_ns() + uint64_t(std::max(*seconds, 0.0) * 1e9);
}

// Calls `attempt(slice in ns)` without the GIL until it says true or the time is over. False: time
// over.
template <class Attempt> bool attempt_until(uint64_t deadline, Attempt attempt) {
  for (;;) {
    const uint64_t now = now_ns(), left = deadline > now ? deadline - now : 0;
    bool done;
    {
      Unlocked release;
      done = attempt(std::min(left, kSlice));
    }
    if (done) return true;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (left <= kSlice) return false;
  }
}

[[noreturn]] void queue_full() {
  const nb::object type = nb::module_::import_("hmmemu.errors").attr("KernelTimeout");
  PyErr_SetString(type.ptr(), "the device's queue stayed full: its kernels do not end");
  throw nb::python_error();
}

using Reaches = std::vector<std::tuple<uint64_t, uint64_t, unsigned>>; // begin, end, ReachUse

uint64_t launch(DeviceProcess& d, uint64_t kernel, Three grid, Three block, uint32_t shared, nb::bytes params,
                const Reaches& reaches, bool confined, uint32_t flags, nb::bytes extents,
                std::optional<double> timeout) {
  LaunchSpec spec{kernel,
                  dim3_of(grid),
                  dim3_of(block),
                  shared,
                  flags,
                  params.data(),
                  params.size(),
                  extents.data(),
                  extents.size() / sizeof(hmm_extent),
                  {}};
  for (const auto& [begin, end, use] : reaches) spec.reaches.push_back({begin, end, use});
  spec.confined = confined;
  uint64_t ticket = 0;
  if (!attempt_until(deadline_of(timeout),
                     [&](uint64_t slice) { return (ticket = d.launch(spec, slice)) != 0; }))
    queue_full();
  return ticket;
}

uint64_t marker(DeviceProcess& d, std::optional<double> timeout) {
  uint64_t ticket = 0;
  if (!attempt_until(deadline_of(timeout), [&](uint64_t slice) { return (ticket = d.marker(slice)) != 0; }))
    queue_full();
  return ticket;
}

const char* wait(DeviceProcess& d, uint64_t ticket, std::optional<double> timeout) {
  WaitResult result = WaitResult::timeout;
  attempt_until(deadline_of(timeout), [&](uint64_t slice) {
    result = d.wait(ticket, slice);
    return result != WaitResult::timeout;
  });
  return result == WaitResult::done ? "done" : result == WaitResult::dead ? "dead" : "timeout";
}

nb::object load(DeviceProcess& d, const std::string& path, uint64_t globals, uint64_t room, bool initialise) {
  Loaded loaded;
  {
    Unlocked release;
    loaded = d.load(path, globals, room, initialise);
  }
  return loaded.tables.empty() ? nb::object(nb::int_(loaded.bytes_needed))
                               : nb::object(nb::str(loaded.tables.data(), loaded.tables.size()));
}

const char* kind_of(const CrashReport& report) {
  if (!report.from_record) return "ended";
  switch (report.record.kind) {
  case kCrashSignal:
    return "signal";
  case kCrashKernel:
    return "kernel";
  case kCrashLaunch:
    return "launch";
  case kCrashGpu:
    return "gpu";
  }
  return "device";
}

const char* failure_of(uint32_t failure) {
  switch (failure) {
  case HMM_FAIL_ASSERT:
    return "assert";
  case HMM_FAIL_TRAP:
    return "trap";
  case HMM_FAIL_BARRIER:
    return "barrier";
  case HMM_FAIL_LIMIT:
    return "limit";
  case HMM_FAIL_ATOMIC:
    return "atomic";
  }
  return "";
}

const char* access_of(uint32_t access) {
  switch (access) {
  case kAccessRead:
    return "read";
  case kAccessWrite:
    return "write";
  case kAccessExecute:
    return "execute";
  }
  return "";
}

nb::object crash(DeviceProcess& d) {
  std::optional<CrashReport> report;
  {
    Unlocked release;
    report = d.crash();
  }
  if (!report) return nb::none();
  const Crash& c = report->record;
  nb::dict result;
  result["kind"] = kind_of(*report);
  result["message"] = report->message;
  result["exit_status"] = report->exit_status;
  result["signal"] = c.signal;
  result["code"] = c.code;
  result["failure"] = failure_of(c.failure);
  result["address"] = c.address;
  result["address_known"] = c.address_known != 0;
  result["access"] = access_of(c.access);
  result["stack_overflow"] = c.stack_overflow != 0;
  result["instruction"] = c.instruction;
  result["module"] = nb::str(c.module);
  result["module_offset"] = c.module_offset;
  result["in_kernel"] = c.in_kernel != 0;
  result["kernel"] = nb::str(c.kernel);
  result["ticket"] = c.ticket;
  result["worker"] = c.worker;
  result["grid"] = tuple_of(c.grid);
  result["block_size"] = tuple_of(c.block_size);
  result["block"] = tuple_of(c.block);
  result["block_known"] = c.block_known != 0;
  result["thread"] = tuple_of(c.thread);
  result["thread_known"] = c.thread_known != 0;
  return result;
}

nb::bytes take_output(DeviceProcess& d) {
  const std::string text = d.take_output();
  return nb::bytes(text.data(), text.size());
}

nb::dict crossings(DeviceProcess& d) {
  const Crossings& c = d.crossings();
  nb::dict result;
  result["pages_to_gpu"] = c.pages_to_gpu.load();
  result["pages_home"] = c.pages_home.load();
  result["copies_to_gpu"] = c.copies_to_gpu.load();
  result["copies_home"] = c.copies_home.load();
  result["scattered_pages"] = c.scattered_pages.load();
  result["gathered_pages"] = c.gathered_pages.load();
  result["zeroed_pages"] = c.zeroed_pages.load();
  result["compared_pages"] = c.compared_pages.load();
  result["unchanged_pages"] = c.unchanged_pages.load();
  result["direct_pages"] = c.direct_pages.load();
  return result;
}

nb::tuple atomic_counts(DeviceProcess& d) {
  const DeviceProcess::AtomicCounts found = d.atomic_counts();
  const auto* const bytes = reinterpret_cast<const char*>(found.entries.data());
  return nb::make_tuple(nb::bytes(bytes, found.entries.size() * sizeof(hmm_atomic_count)), found.lost);
}

DeviceProcess* start(std::string program, unsigned index, unsigned workers, unsigned layout,
                     const std::string& tracker, unsigned gpu) {
  static const std::map<std::string, Tracker> known = {
      {"uffd", kTrackerUserfaultfd}, {"signal", kTrackerSignal}, {"launch", kTrackerLaunch}};
  const auto found = known.find(tracker);
  if (found == known.end())
    throw hmm::Failure(hmm::FailureKind::Range,
                       "a device's tracker is uffd, signal or launch, not " + tracker);
  Unlocked release;
  return new DeviceProcess(std::move(program), index, workers, layout, found->second, gpu);
}

// ---- what the driver does, for tests of the device process by itself ----

hmm::Pages pages_of(uint64_t address, uint64_t length) { return {address, address + length}; }

int set_rights(DeviceProcess& d, uint64_t address, uint64_t length, unsigned rights) {
  if (rights > 2) throw hmm::Failure(hmm::FailureKind::Range, "rights are 0 none, 1 read, 2 write");
  return d.port().set_rights(pages_of(address, length), hmm::Rights(rights), false);
}

int give(DeviceProcess& d, uint64_t address, uint64_t length, bool write) {
  return d.port().give(pages_of(address, length), write ? hmm::Rights::Write : hmm::Rights::Read, false);
}

std::vector<std::tuple<uint64_t, bool, int>> read_faults(DeviceProcess& d) {
  hmm::Fault faults[16];
  const unsigned count = d.port().faults.read(faults, 16);
  std::vector<std::tuple<uint64_t, bool, int>> list;
  for (unsigned i = 0; i < count; i++)
    list.emplace_back(faults[i].address, faults[i].write, faults[i].thread);
  return list;
}

void answer_faults(DeviceProcess& d, uint64_t address, uint64_t length, bool refuse) {
  if (refuse)
    d.port().refuse(pages_of(address, length));
  else
    d.port().wake(pages_of(address, length));
}

} // namespace

void bind_device(nb::module_& m) {
  m.attr("LAYOUTS") = kLayouts;
  m.attr("LAUNCH_PRECISE") = unsigned(HMM_LAUNCH_PRECISE);
  nb::class_<DeviceProcess>(m, "DeviceProcess")
      .def(nb::new_(&start), nb::arg("program"), nb::arg("index") = 0, nb::arg("workers") = 0,
           nb::arg("layout") = 0, nb::arg("tracker") = "uffd", nb::arg("gpu") = 0)
      .def("map", &DeviceProcess::map, nb::arg("address"), nb::arg("length"), WhileUnlocked())
      .def("unmap", &DeviceProcess::unmap, nb::arg("address"), nb::arg("length"), WhileUnlocked())
      .def("hold", &DeviceProcess::hold, nb::arg("address"), nb::arg("length"), nb::arg("writes"),
           WhileUnlocked(), "Tracker launch: 0, or a page that the GPU lacks (then nothing is held).")
      .def("release", &DeviceProcess::release, nb::arg("address"), nb::arg("length"), WhileUnlocked())
      .def(
          "share",
          [](DeviceProcess& d, uint64_t address) {
            OwnedFd memory = d.share(address);
            return fcntl(memory.get(), F_DUPFD_CLOEXEC, 3);
          },
          nb::arg("address"), WhileUnlocked(), "A descriptor of the block's memory, for the caller to close.")
      .def("tell_frames", &DeviceProcess::tell_frames, nb::arg("fd"), nb::arg("address"), nb::arg("length"),
           nb::arg("offset"), WhileUnlocked(),
           "The CPU's frames of the range lie in that object (O_PATH). False: the device cannot open it.")
      .def("forget_frames", &DeviceProcess::forget_frames, nb::arg("address"), nb::arg("length"),
           WhileUnlocked())
      .def(
          "zap", [](DeviceProcess& d, uint64_t a, uint64_t n) { return d.port().drop(pages_of(a, n)); },
          nb::arg("address"), nb::arg("length"), WhileUnlocked())
      .def("set_rights", &set_rights, nb::arg("address"), nb::arg("length"), nb::arg("rights"),
           WhileUnlocked(), "Tracker signal: 0 none, 1 read, 2 write. Returns 0 or an errno.")
      .def("give", &give, nb::arg("address"), nb::arg("length"), nb::arg("write"), WhileUnlocked(),
           "As set_rights; who waits for these pages tries again.")
      .def("read_faults", &read_faults, "Tracker signal: [(page, is a write, thread id), ...] not yet read.")
      .def("answer_faults", &answer_faults, nb::arg("address"), nb::arg("length"), nb::arg("refuse") = false)
      .def_prop_ro("fault_bell", [](DeviceProcess& d) { return d.port().faults.fd(); })
      .def_prop_ro("tracker",
                   [](DeviceProcess& d) {
                     return d.tracker() == kTrackerSignal   ? "signal"
                            : d.tracker() == kTrackerLaunch ? "launch"
                                                            : "uffd";
                   })
      .def("load", &load, nb::arg("path"), nb::arg("globals") = 0, nb::arg("room") = 0,
           nb::arg("initialise") = true,
           "The module's tables as JSON text; or, if its variables do not fit, the bytes that they "
           "need.")
      .def("unload", &DeviceProcess::unload, nb::arg("module"), WhileUnlocked())
      .def("ping", &DeviceProcess::ping, WhileUnlocked())
      .def("launch", &launch, nb::arg("kernel"), nb::arg("grid"), nb::arg("block"), nb::arg("shared"),
           nb::arg("params"), nb::arg("reaches") = Reaches(), nb::arg("confined") = false,
           nb::arg("flags") = 0, nb::arg("extents") = nb::bytes("", 0), nb::arg("timeout") = nb::none(),
           "Queues a launch and returns its ticket; waits up to `timeout` seconds while the queue "
           "is full.")
      .def("marker", &marker, nb::arg("timeout") = nb::none())
      .def("marker_time", &DeviceProcess::marker_time, nb::arg("ticket"))
      .def("wait", &wait, nb::arg("ticket"), nb::arg("timeout") = nb::none(), "'done', 'timeout' or 'dead'.")
      .def("completed", &DeviceProcess::completed, nb::arg("ticket"))
      .def("crash", &crash)
      .def("take_output", &take_output)
      .def("kill", &DeviceProcess::kill, WhileUnlocked())
      .def("set_link", &DeviceProcess::set_link, nb::arg("native_unsigned"), nb::arg("native_signed"),
           nb::arg("fallback"), "What system-scope atomics do from the next launch on: hmm_link in abi.h.")
      .def("set_page_kernels", &DeviceProcess::set_page_kernels, nb::arg("path"),
           "Tracker launch: the module by which pages are gathered, scattered and compared.")
      .def_prop_ro("no_page_kernels", &DeviceProcess::no_page_kernels)
      .def_prop_ro("not_kept", &DeviceProcess::not_kept)
      .def("crossings", &crossings, "Tracker launch: what crossed the link, by name.")
      .def("atomic_counts", &atomic_counts,
           "(hmm_atomic_count entries of all threads as bytes, operations that found no entry).")
      .def("clear_atomics", &DeviceProcess::clear_atomics, WhileUnlocked())
      .def("restart", &DeviceProcess::restart, nb::arg("layout") = nb::none(),
           nb::arg("distance") = nb::none(), WhileUnlocked())
      .def_prop_ro("alive", &DeviceProcess::alive, WhileUnlocked())
      .def_prop_ro("last_ticket", &DeviceProcess::last_ticket)
      .def_prop_ro("completed_ticket", &DeviceProcess::completed_ticket)
      .def_prop_ro("output_dropped", &DeviceProcess::output_dropped)
      .def_prop_ro("pid", &DeviceProcess::pid)
      .def_prop_ro("layout", &DeviceProcess::layout)
      .def_prop_ro("distance", &DeviceProcess::distance, "Bytes from the CPU's addresses to a GPU's.")
      .def_prop_ro("offered_distance", &DeviceProcess::offered_distance,
                   "At which it has room for the range that it could not map last; 0: it did not say.")
      .def_prop_ro("features", &DeviceProcess::features)
      .def_prop_ro("user_mode_only", &DeviceProcess::user_mode_only)
      .def_prop_ro("userfaultfd", &DeviceProcess::userfaultfd)
      .def_prop_ro("vram", &DeviceProcess::vram)
      .def_prop_ro("workers", &DeviceProcess::workers, "[(thread id, CPU), ...]: each is pinned.");
}
