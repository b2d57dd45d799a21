// Driver: pages of which a device has the CPU's own frame mapped, for atomics over the link; together with
// the CPU, or alone.
//
// ORDER, to lend: take the page from the CPU -> fill the common frame -> map it in the page's place -> catch
// the CPU's accesses there -> take its mapping, if the device is to be alone -> give the device its rights.
// To recall: write-protect at both -> copy to memory of the CPU's own -> map that in the page's place ->
// catch accesses -> take the frame from the device. At no moment do the two see different contents. Whoever
// touches the page meanwhile faults, and waits for its lock: so stores to a remote page are always caught
// (Tracker::Uffd under `async`), or those between the copy and the mapping would be lost.
//
// Between the two nothing is copied: the CPU's entries for the frame go and come back. A device is told that
// it is alone (mark_remote) after the CPU's entries went, and that it is not before they come back.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace hmm {
namespace {

// The pages become those of the file at the offset that is their address, in one step for every thread.
int map_file(Pages pages, int file) {
  void* at = mmap(reinterpret_cast<void*>(pages.begin), pages.bytes(), PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, static_cast<off_t>(pages.begin));
  return at == MAP_FAILED ? errno : 0;
}

// What watches the page while it is remote.
Tracker catching(Tracker tracker) { return tracker == Tracker::Async ? Tracker::Uffd : tracker; }

} // namespace

// The CPU has the pages alone. ENOMEM: too many mappings; nothing has changed, or both may use the pages.
int Driver::lend(Block& block, Pages run, Processor p, PageState next) {
  CpuTable& cpu = cpu_table(next.tracker());
  CpuTable& then = cpu_table(catching(next.tracker()));
  DeviceTable& device = *devices_[p];
  const bool alone = next.hold(kCpu) == Hold::Invalid;
  StagingPool::Use staging(staging_);
  const std::byte* content = cpu.take(block, run, true, *staging);
  if (!content) return errno;
  device.lend(block, run, content);
  int error = map_file(run, device.vram());
  if (error) {
    device.take_back(block, run);
    if (int lost = cpu.install(block, run, content, true))
      fatal("page 0x%lx cannot be given back to the CPU: %s", run.begin, strerror(lost));
    return error;
  }
  change(block, run, [=](PageState& state) {
    state.set(p, Hold::Remote);
    state.set_tracker(catching(next.tracker()));
  });
  if ((error = then.replaced(block, run, false)))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  cpu.forget_taken(block, run);
  cpu.wake(run); // who waits for the old mapping; nobody can any more
  counters_.processor[p].remote_pages.add(run.count());
  if (alone) return exclude(block, run, p);
  if ((error = then.show(block, run))) return error;
  return device.give(run);
}

// The CPU's mapping goes, p's stays. ENOMEM: too many mappings; nothing has changed.
int Driver::exclude(Block& block, Pages run, Processor p) {
  if (int error = cpu_table(block.page(run.begin).tracker()).hide(block, run)) return error;
  counters_.processor[p].exclusive_pages.add(run.count());
  devices_[p]->mark_remote(run, false);
  change(block, run, [](PageState& state) { state.set(kCpu, Hold::Invalid); });
  return devices_[p]->give(run);
}

// The CPU's mapping comes back, the device's stays.
int Driver::admit(Block& block, Pages run) {
  devices_[block.page(run.begin).remote()]->mark_remote(run, true);
  if (int error = cpu_table(block.page(run.begin).tracker()).show(block, run)) return error;
  change(block, run, [](PageState& state) { state.set(kCpu, Hold::Exclusive); });
  return 0;
}

// Afterwards the CPU has the pages alone, in memory of its own.
int Driver::recall(Block& block, Pages run) {
  if (block.page(run.begin).hold(kCpu) == Hold::Invalid)
    if (int error = admit(block, run)) return error;
  const Processor p = block.page(run.begin).remote();
  const Tracker before = block.page(run.begin).tracker();
  const Tracker then = async_ && before == Tracker::Uffd ? Tracker::Async : before;
  CpuTable& cpu = cpu_table(before);
  DeviceTable& device = *devices_[p];
  StagingPool::Use staging(staging_);
  if (int error = cpu.protect(block, run)) return error;
  if (int error = device.protect(block, run)) return error;
  // Not read through the CPU's mapping, which may lack entries.
  if (int error = own_memory_.give(block, run, device.frames(block, run, *staging))) return error;
  change(block, run, [=](PageState& state) {
    state.set(p, Hold::Invalid);
    state.set_tracker(then);
  });
  if (int error = cpu_table(then).replaced(block, run, false))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  if (int error = device.take_back(block, run))
    fatal("pages at 0x%lx cannot be taken from a device: %s", run.begin, strerror(error));
  return cpu.wake(run); // who waits for the old mapping; nobody can any more
}

// For those who need the pages as pages of one processor.
int Driver::recall_all(Block& block, Pages pages) {
  return each_run(block, pages, [&](Pages alike) {
    if (!block.page(alike.begin).remote()) return 0;
    return as_far_as_mapped(block, alike, [&](Pages run) { return recall(block, run); });
  });
}

} // namespace hmm
