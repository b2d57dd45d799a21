// Driver: pages of which devices have the CPU's own frame mapped, for atomics over the link; together with
// the CPU, or one of them alone.
//
// The frame of a page of shared memory, or of a file, is the object's, and stays there. That of private
// memory is put into a file of the session's (memory/common_frames.h) when the first device wants it, and
// back into memory of its own after the last.
//
// ORDER, to lend: take the page from the CPU -> fill the common frame -> map it in the page's place -> catch
// the CPU's accesses there (all this only of private memory, the first time) -> take the CPU's mapping, if
// the device is to be alone -> map the frame in the device. To recall: take it from the devices ->
// write-protect at the CPU -> copy to memory of the CPU's own -> map that in the page's place -> catch
// accesses (the last four only of private memory). At no moment do two of them see different contents.
// Whoever touches the page meanwhile faults, and waits for its lock: so stores to a remote page are always
// caught where its content is copied (Tracker::Uffd under `async`), or those between the copy and the mapping
// would be lost.
//
// Between the two nothing is copied: the CPU's entries for the frame go and come back, devices join and
// leave. A device is told that it is alone (mark_remote) after the CPU's entries went, and that it is not
// before they come back.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

// What watches private memory while it is remote.
Tracker catching(Tracker tracker) { return tracker == Tracker::Async ? Tracker::Uffd : tracker; }

} // namespace

// Calls act(device) for each that is Remote.
template <class Act> int Driver::each_remote(PageState state, Act act) {
  for (Processor q = 1; q < processors(); ++q)
    if (state.hold(q) == Hold::Remote)
      if (int error = act(*devices_[q])) return error;
  return 0;
}

// Steps that leave the pages where they are, or are to be asked for again after one of the CPU's.
int Driver::over_the_link(Block& block, Pages run, const Transition& t, Request request) {
  if (request.p != kCpu && hides(block, run)) return ENXIO;
  int error = 0;
  switch (t.step) {
  case Step::Admit:
    error = admit(block, run);
    break;
  case Step::Recall:
    error = recall(block, run);
    break;
  case Step::Home:
    error = access_locked(block, run, {kCpu, Access::Write, request.cause});
    break;
  default:
    if (const int failed = lend(block, run, request.p, t); failed != ENOMEM) return failed;
    request.access = Access::Own; // it cannot be mapped there (too many mappings): the page moves
  }
  return error ? error : access_locked(block, run, request);
}

// ENOMEM: p cannot map the pages. They are as they were, or other devices use them.
int Driver::lend(Block& block, Pages run, Processor p, const Transition& t) {
  const PageState before = block.page(run.begin);
  const bool first = !before.remote(), alone = t.next.hold(kCpu) == Hold::Invalid;
  if (first && !before.shared_mapping()) {
    if (int error = put_in_common(block, run, p)) return error;
  } else {
    change(block, run, [=](PageState& state) { state.set(p, Hold::Remote); });
  }
  if (before.hold(p) != Hold::Remote) counters_.processor[p].remote_pages.add(run.count());
  int error = alone ? exclude(block, run, p) : 0;
  if (!alone) devices_[p]->mark_remote(run, true);
  if (!error) error = devices_[p]->lend(block, run);
  if (!error || error == ESRCH) return error;
  if (alone || first) return recall(block, run) == 0 ? ENOMEM : error;
  devices_[p]->mark_remote(run, false);
  change(block, run, [=](PageState& state) { state.set(p, Hold::Invalid); });
  return ENOMEM;
}

// Private pages that the CPU has alone. ENOMEM: too many mappings; nothing has changed.
int Driver::put_in_common(Block& block, Pages run, Processor p) {
  const PageState state = block.page(run.begin);
  CpuTable& cpu = cpu_table(state.tracker());
  CpuTable& then = cpu_table(catching(state.tracker()));
  StagingPool::Use staging(staging_);
  const std::byte* content = cpu.take(block, run, true, *staging);
  if (!content) return errno;
  int error = common_.put(block, run, content);
  if (error) {
    if (int lost = cpu.install(block, run, content, true))
      fatal("page 0x%lx cannot be given back to the CPU: %s", run.begin, strerror(lost));
    return error;
  }
  for (uint64_t a = run.begin; state.linked() && a < run.end; a += kPage) block.link(a).own = true;
  change(block, run, [=](PageState& s) {
    s.set(p, Hold::Remote);
    s.set_tracker(catching(state.tracker()));
  });
  if ((error = then.replaced(block, run, false)))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  cpu.forget_taken(block, run);
  cpu.wake(run); // who waits for the old mapping; nobody can any more
  return then.show(block, run);
}

// All mappings but p's, which is about to be made, go. ENOMEM: too many mappings; the CPU has its own still.
int Driver::exclude(Block& block, Pages run, Processor p) {
  const PageState before = block.page(run.begin);
  if (int error = end_lend(block, run, before, p)) return error;
  if (int error = cpu_table(before.tracker()).hide(block, run)) return error;
  counters_.processor[p].exclusive_pages.add(run.count());
  devices_[p]->mark_remote(run, false);
  change(block, run, [=](PageState& state) {
    state.set_holds(0);
    state.set(p, Hold::Remote);
  });
  return 0;
}

// The CPU's mapping comes back, the device's stays.
int Driver::admit(Block& block, Pages run) {
  const PageState state = block.page(run.begin);
  devices_[state.remote()]->mark_remote(run, true);
  if (int error = cpu_table(state.tracker()).show(block, run)) return error;
  change(block, run, [](PageState& s) { s.set(kCpu, Hold::Exclusive); });
  return 0;
}

// The devices' mappings go, but for that of `but`. Until their states say so, who faults is given one again.
int Driver::end_lend(Block&, Pages run, PageState state, Processor but) {
  return each_remote(state, [&](DeviceTable& device) {
    return but != kCpu && &device == &*devices_[but] ? 0 : device.end_lend(run);
  });
}

// Afterwards the CPU has the pages alone; private ones in memory of its own.
int Driver::recall(Block& block, Pages run) {
  if (block.page(run.begin).hold(kCpu) == Hold::Invalid)
    if (int error = admit(block, run)) return error;
  const PageState before = block.page(run.begin);
  if (int error = end_lend(block, run, before, kCpu))
    fatal("pages at 0x%lx cannot be taken from a device: %s", run.begin, strerror(error));
  if (!before.shared_mapping())
    if (int error = take_from_common(block, run)) return error;
  change(block, run, [](PageState& state) {
    state.set_holds(0);
    state.set(kCpu, Hold::Exclusive);
  });
  return 0;
}

// ENOMEM: too many mappings, or no memory. They are as they were, but that no device has them mapped.
int Driver::take_from_common(Block& block, Pages run) {
  const Tracker before = block.page(run.begin).tracker();
  const Tracker then = async_ && before == Tracker::Uffd ? Tracker::Async : before;
  CpuTable& cpu = cpu_table(before);
  if (int error = cpu.protect(block, run)) return error;
  // Not read through the CPU's mapping, which may lack entries.
  if (int error = own_memory_.give(block, run, common_.frames(block, run))) return error;
  change(block, run, [=](PageState& state) {
    state.set_holds(0);
    state.set(kCpu, Hold::Exclusive);
    state.set_tracker(then);
  });
  if (int error = cpu_table(then).replaced(block, run, false))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  if (int error = common_.free(run)) return error;
  return cpu.wake(run); // who waits for the old mapping; nobody can any more
}

// For those who need the pages as pages of one processor.
int Driver::recall_all(Block& block, Pages pages) {
  return each_run(block, pages, [&](Pages alike) {
    if (!block.page(alike.begin).remote()) return 0;
    return as_far_as_mapped(block, alike, [&](Pages run) { return recall(block, run); });
  });
}

// Frames of files are seen as copies only (PageTable::frames), in which nobody can write.
int Driver::recall_files(Block& block, Pages pages) {
  return each_run(block, pages,
                  [&](Pages run) { return block.page(run.begin).kind().file ? recall_all(block, run) : 0; });
}

// The program has unmapped the pages, or they show something else: no device has them any more.
int Driver::lose_remote(Pages run, PageState state) {
  if (!state.remote()) return 0;
  if (int error = each_remote(state, [&](DeviceTable& device) { return device.end_lend(run); })) return error;
  return state.shared_mapping() ? 0 : common_.free(run);
}

// What pages hold that are remote.
const std::byte* Driver::lent_frames(Block& block, Pages run, Staging& staging) {
  const PageState state = block.page(run.begin);
  return state.shared_mapping() ? cpu_table(state.tracker()).frames(block, run, staging)
                                : common_.frames(block, run);
}

} // namespace hmm
