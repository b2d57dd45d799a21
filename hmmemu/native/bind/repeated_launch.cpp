// hmmemu._native.RepeatedLaunch: the launches of one kernel on one device process that are like others
// before.
//
// What Device.launch decides anew each time is decided once here, or looked at in one go: arguments by their
// types (bind/arguments.h), arrays by where they lie, room in the queue. Where anything is otherwise the
// answer is 0, nothing was launched, and Device.launch does it, or says what is wrong: errors are made there
// alone.
//
// INVARIANT: between a look at the arguments and the launch no Python code runs that could change them but on
// other threads, while the device's lock is waited for, as in Device.launch; once it is queued, the arrays
// are kept. LOCK: the device's (Supervisor.lock) is held while the launch is queued, so that its process is
// the one in which the kernel is loaded; the queue compares the handle's generation. Not held while memory is
// brought.
#include "bind/arguments.h"
#include "bind/bind.h"
#include "bind/unlocked.h"
#include "device/client/device_process.h"
#include "driver/session.h"
#include <algorithm>
#include <cstring>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <tuple>

namespace nb = nanobind;
using namespace hmmemu::device;
using hmm::ArrayArgument;
using hmm::Session;

namespace {

constexpr uint64_t kPatience = 50'000'000; // ns for room in the queue
constexpr uint64_t kBlock = 2 << 20;
constexpr hmm_dim3 kMostBlocks{(1u << 31) - 1, 65535, 65535}, kMostThreads{1024, 1024, 64};

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

// Calls a method without arguments. Throws what it raises.
nb::object call(PyObject* object, PyObject* method) {
  PyObject* const result = PyObject_CallMethodNoArgs(object, method);
  if (!result) throw nb::python_error();
  return nb::steal(result);
}

// A threading.RLock, held.
class Held {
 public:
  explicit Held(PyObject* lock) : lock_(lock) {
    static PyObject* const acquire = interned("acquire");
    with_interpreter([&] { return call(lock_, acquire); });
  }
  ~Held() {
    static PyObject* const release = interned("release");
    nb::error_scope keep; // of whoever is on the way out
    Py_XDECREF(PyObject_CallMethodNoArgs(lock_, release));
  }
  Held(const Held&) = delete;

 private:
  PyObject* const lock_;
};

// An int of exactly that type in [least, most].
bool to_number(PyObject* object, int64_t least, int64_t most, uint32_t& number) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (overflow || value < least || value > most) return false;
  number = static_cast<uint32_t>(value);
  return true;
}

// A grid or a block: an int, or a tuple of one to three.
bool to_shape(PyObject* object, const hmm_dim3& most, hmm_dim3& shape) {
  shape = {1, 1, 1};
  if (!PyTuple_CheckExact(object)) return to_number(object, 1, most.x, shape.x);
  const Py_ssize_t count = PyTuple_GET_SIZE(object);
  const auto item = [&](Py_ssize_t i) { return PyTuple_GET_ITEM(object, i); };
  return count >= 1 && count <= 3 && to_number(item(0), 1, most.x, shape.x) &&
         (count < 2 || to_number(item(1), 1, most.y, shape.y)) &&
         (count < 3 || to_number(item(2), 1, most.z, shape.z));
}

// Around the queueing of a launch, with the device's lock held.
class Launching {
 public:
  Launching(Session& session, hmm::Processor p, bool waits) : driver_(session.driver()), p_(p) {
    driver_->before_launch(p, waits);
  }
  ~Launching() { driver_->after_launch(p_); }
  Launching(const Launching&) = delete;

 private:
  const Session::Use driver_;
  const hmm::Processor p_;
};

using Places = std::vector<std::tuple<uint64_t, uint64_t, unsigned>>; // begin, end, ReachUse

// Sorts memory and puts runs with the same use together (`reach.merge`).
void merge(std::vector<Reach>& ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Reach& a, const Reach& b) {
    return std::tie(a.use, a.begin) < std::tie(b.use, b.begin);
  });
  size_t runs = 0;
  for (const Reach& range : ranges) {
    if (runs && ranges[runs - 1].use == range.use && range.begin <= ranges[runs - 1].end)
      ranges[runs - 1].end = std::max(ranges[runs - 1].end, range.end);
    else
      ranges[runs++] = range;
  }
  ranges.resize(runs);
}

class RepeatedLaunch {
 public:
  RepeatedLaunch(nb::object session, nb::object process, unsigned processor, nb::object lock,
                 nb::object pending, std::pair<uint64_t, uint64_t> arena, nb::dict table, nb::list parameters,
                 const nb::tuple& types, uint64_t handle, bool waits, uint32_t param_bytes,
                 uint32_t most_threads, int64_t most_shared, std::optional<uint64_t> room,
                 const Places& variables, bool notices)
      : session_object_(std::move(session)), process_object_(std::move(process)),
        session_(nb::cast<Session&>(session_object_)), process_(nb::cast<DeviceProcess&>(process_object_)),
        processor_(static_cast<hmm::Processor>(processor)), lock_(std::move(lock)),
        pending_(std::move(pending)), arena_(arena), table_(std::move(table)),
        arguments_(parameters, types[0], types[1], types[2]), handle_(handle), waits_(waits),
        param_bytes_(param_bytes), most_threads_(most_threads), most_shared_(most_shared), room_(room),
        notices_(notices) {
    if (param_bytes > kParamBytes)
      throw hmm::Failure(hmm::FailureKind::Range, "a kernel takes at most 4096 bytes of parameters");
    for (const auto& [begin, end, use] : variables) variables_.push_back({begin, end, use});
  }

  uint64_t handle() const { return handle_; }

  // The ticket; 0: not here.
  uint64_t launch(nb::handle grid, nb::handle block, nb::handle args, nb::handle shared) {
    alignas(64) unsigned char params[kParamBytes];
    LaunchSpec spec{handle_, {}, {}, 0, 0, params, param_bytes_, nullptr, 0, {}};
    std::vector<ArrayArgument> arrays;
    if (!session_.open()) return 0; // in a fork child the lock may be somebody's for ever
    if (!to_shape(grid.ptr(), kMostBlocks, spec.grid) || !to_shape(block.ptr(), kMostThreads, spec.block) ||
        !to_number(shared.ptr(), 0, most_shared_, spec.dynamic_shared) ||
        uint64_t{spec.block.x} * spec.block.y * spec.block.z > most_threads_)
      return 0;
    if (!fill(args, params, arrays) || !all_known(arrays) || (room_ && !find_reach(arrays, spec.reaches)))
      return 0;
    const uint64_t ticket = bring(spec.reaches) ? queue(spec) : 0;
    if (ticket && !arrays.empty()) keep(ticket, args);
    return ticket;
  }

  // For tests: (parameter block, [(begin, end, writes, shares) of each array]); None: not here.
  nb::object pack(nb::handle args) {
    unsigned char params[kParamBytes];
    std::vector<ArrayArgument> arrays;
    if (!fill(args, params, arrays)) return nb::none();
    nb::list memory;
    for (const ArrayArgument& a : arrays) memory.append(nb::make_tuple(a.begin, a.end, a.writes, a.shares));
    return nb::make_tuple(nb::bytes(params, param_bytes_), memory);
  }

 private:
  bool fill(nb::handle args, unsigned char (&params)[kParamBytes], std::vector<ArrayArgument>& arrays) {
    if (!PyTuple_CheckExact(args.ptr())) return false;
    memset(params, 0, param_bytes_);
    const bool packed = arguments_.pack(args.ptr(), params, arrays);
    if (PyErr_Occurred()) throw nb::python_error(); // Ctrl-C, say
    return packed;
  }

  // Whether each lies in the arena, or its owner is registered (hmmemu/registry.py).
  bool all_known(const std::vector<ArrayArgument>& arrays) const {
    return std::all_of(arrays.begin(), arrays.end(), [this](const ArrayArgument& array) {
      if (array.begin >= arena_.first && array.end <= arena_.second) return true;
      if (PyDict_Size(table_.ptr()) == 0) return false;
      const nb::object owner = arguments_.root(array.array);
      if (!owner.is_valid()) return false;
      const nb::object key = nb::steal(PyLong_FromVoidPtr(owner.ptr())); // its id()
      return key.is_valid() && PyDict_Contains(table_.ptr(), key.ptr()) == 1;
    });
  }

  // What CudaDevice._reached finds. False: there may be no room for all that.
  bool find_reach(const std::vector<ArrayArgument>& arrays, std::vector<Reach>& reaches) const {
    std::vector<Reach> shared;
    reaches = variables_;
    for (const ArrayArgument& array : arrays)
      (array.shares ? shared : reaches)
          .push_back({array.begin / hmm::kPage * hmm::kPage,
                      (array.end + hmm::kPage - 1) / hmm::kPage * hmm::kPage,
                      array.writes ? kReachWrites : kReachReads});
    merge(reaches);
    merge(shared);
    uint64_t bytes = reaches.size() * kBlock; // arrays rarely begin with a block, nor end with one
    for (const Reach& reach : reaches) bytes += reach.end - reach.begin;
    for (const Reach& reach : shared) reaches.push_back({reach.begin, reach.end, kReachShares});
    return bytes <= *room_;
  }

  // Stores that were not caught are noticed, and what is reached comes to the device, as by `make_ready` and
  // `access_all`.
  bool bring(const std::vector<Reach>& reaches) {
    if (!notices_ && reaches.empty()) return true;
    const Unlocked released;
    try {
      const Session::Use driver = session_.driver();
      driver->notice_all_writes(true);
      return std::all_of(reaches.begin(), reaches.end(), [&](const Reach& reach) {
        const hmm::Access access = reach.use == kReachReads ? hmm::Access::Read : hmm::Access::Write;
        return reach.use == kReachShares ||
               driver->access({reach.begin, reach.end}, processor_, access, hmm::Cause::Launch) == 0;
      });
    } catch (const hmm::Failure&) {
      return false;
    }
  }

  uint64_t queue(const LaunchSpec& spec) {
    const Held held(lock_.ptr());
    const Unlocked released;
    try {
      const Launching launching(session_, processor_, waits_);
      return process_.launch(spec, kPatience);
    } catch (const hmm::Failure&) {
      return 0;
    }
  }

  // As Supervisor.keep. Nobody comes between a look at the oldest and its removal: the GIL is held.
  void keep(uint64_t ticket, nb::handle args) {
    static PyObject* const append = interned("append");
    static PyObject* const popleft = interned("popleft");
    const nb::object entry = nb::make_tuple(ticket, args);
    if (!nb::steal(PyObject_CallMethodOneArg(pending_.ptr(), append, entry.ptr())).is_valid())
      throw nb::python_error();
    const uint64_t done = process_.completed_ticket();
    while (PySequence_Size(pending_.ptr()) > 0) {
      const nb::object first = nb::steal(PySequence_GetItem(pending_.ptr(), 0));
      if (!first.is_valid() || nb::cast<uint64_t>(first[0]) > done) break;
      call(pending_.ptr(), popleft);
    }
  }

  const nb::object session_object_, process_object_;
  Session& session_;
  DeviceProcess& process_;
  const hmm::Processor processor_;
  const nb::object lock_, pending_; // of the device's Supervisor
  const std::pair<uint64_t, uint64_t> arena_;
  const nb::dict table_; // of the space's Registry
  hmm::Arguments arguments_;
  const uint64_t handle_;
  const bool waits_;
  const uint32_t param_bytes_, most_threads_;
  const int64_t most_shared_;
  const std::optional<uint64_t> room_; // bytes; only for a device that is told what launches reach
  const bool notices_;                 // some stores of the CPU are not caught
  std::vector<Reach> variables_;
};

} // namespace

void bind_repeated_launch(nb::module_& m) {
  nb::class_<RepeatedLaunch>(m, "RepeatedLaunch")
      .def(nb::init<nb::object, nb::object, unsigned, nb::object, nb::object, std::pair<uint64_t, uint64_t>,
                    nb::dict, nb::list, const nb::tuple&, uint64_t, bool, uint32_t, uint32_t, int64_t,
                    std::optional<uint64_t>, const Places&, bool>(),
           nb::arg("session"), nb::arg("process"), nb::arg("processor"), nb::arg("lock"), nb::arg("pending"),
           nb::arg("arena"), nb::arg("table"), nb::arg("parameters"), nb::arg("types"), nb::arg("handle"),
           nb::arg("waits"), nb::arg("param_bytes"), nb::arg("most_threads"), nb::arg("most_shared"),
           nb::arg("room").none(), nb::arg("variables"), nb::arg("notices"))
      .def("launch", &RepeatedLaunch::launch, nb::arg("grid"), nb::arg("block"), nb::arg("args"),
           nb::arg("shared_mem"), "The ticket; 0: nothing was launched, Device.launch is to do it.")
      .def("pack", &RepeatedLaunch::pack, nb::arg("args"),
           "For tests: (parameter block, [(begin, end, writes, shares), ...]); None: not here.")
      .def_prop_ro("handle", &RepeatedLaunch::handle);
}
