// Driver: pages of which a device has the CPU's own frame mapped, for atomics over the link.
//
// ORDER, to lend: take the page from the CPU -> fill the common frame -> map it in the page's place -> catch
// the CPU's accesses there -> give the device its rights. To recall: write-protect at both -> copy to memory
// of the CPU's own -> map that in the page's place -> catch accesses -> take the frame from the device. At no
// moment do the two see different contents. Whoever touches the page meanwhile faults, and waits for its
// lock: so stores to a remote page are always caught (Tracker::Uffd under `async`), or those between the copy
// and the mapping would be lost.
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

// The CPU has the pages alone. ENOMEM: too many mappings; nothing has changed.
int Driver::lend(Block& block, Pages run, Processor p) {
  const Tracker before = block.page(run.begin).tracker();
  CpuTable& cpu = cpu_table(before);
  DeviceTable& device = *devices_[p];
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
  if ((error = cpu_table(catching(before)).replaced(block, run, true)))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  cpu.forget_taken(block, run);
  change(block, run, [=](PageState& state) {
    state.set(p, Hold::Remote);
    state.set_tracker(catching(before));
  });
  counters_.processor[p].remote_pages.add(run.count());
  cpu.wake(run);
  return device.give(run);
}

// Afterwards the CPU has the pages alone, in memory of its own.
int Driver::recall(Block& block, Pages run) {
  const Processor p = block.page(run.begin).remote();
  const Tracker before = block.page(run.begin).tracker();
  const Tracker then = async_ && before == Tracker::Uffd ? Tracker::Async : before;
  CpuTable& cpu = cpu_table(before);
  DeviceTable& device = *devices_[p];
  if (int error = cpu.protect(block, run)) return error;
  if (int error = device.protect(block, run)) return error;
  if (int error = own_memory_.give(block, run)) return error;
  if (int error = cpu_table(then).replaced(block, run, false))
    fatal("pages at 0x%lx cannot be watched any more: %s", run.begin, strerror(error));
  if (int error = device.take_back(block, run))
    fatal("pages at 0x%lx cannot be taken from a device: %s", run.begin, strerror(error));
  change(block, run, [=](PageState& state) {
    state.set(p, Hold::Invalid);
    state.set_tracker(then);
  });
  return cpu.wake(run); // who waits for the old mapping; nobody can any more
}

// For those who need the pages as pages of one processor.
int Driver::recall_all(Block& block, Pages pages) {
  return each_run(block, pages,
                  [&](Pages run) { return block.page(run.begin).remote() ? recall(block, run) : 0; });
}

} // namespace hmm
