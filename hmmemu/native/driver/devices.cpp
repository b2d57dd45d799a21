// Driver: how devices come, and what becomes of a device whose process ends.
//
// A device is a page table (memory/device_table.h) with a number that stays its own for as long as the space
// lives. When its process ends, what it held comes home (`evacuate`), and a new process may take its place.
//
// INVARIANT: `processors_` only grows, and is stored after the device's tables are made: who reads it finds
// them.
// LOCKS: the range lock (base/lock.h); the pages of one block at a time.
#include "driver/driver.h"

#include <cstring>
#include <mutex>

namespace hmm {

Processor Driver::attach(int vram, int uffd, DevicePort* port) {
  std::lock_guard guard(ranges_);
  const unsigned p = processors();
  if (p == kMaxProcessors)
    throw Failure(FailureKind::Unsupported,
                  "at most " + std::to_string(kMaxProcessors - 1) + " devices in one address space");
  devices_[p].emplace(vram, uffd, port, cpu_);
  tables_[p] = &*devices_[p];
  processors_.store(p + 1, std::memory_order_release);
  return p;
}

void Driver::take_left(Processor p) {
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    if (!devices_[p]->any_left(block)) continue;
    const int error =
        each_block(block.all(), [&](Block& b, Pages all) { return devices_[p]->take_left(b, all); });
    if (error) fatal("rights to device pages at 0x%lx cannot be taken: %s", block.address, strerror(error));
  }
}

void Driver::evacuate(Processor p) {
  std::lock_guard guard(ranges_);
  if (closed_) return;
  devices_[p]->end();
  take_left(p);
  for (uint32_t slot = 0; slot < directory_.size(); ++slot) {
    Block& block = directory_.at(slot);
    each_block({block.address, block.address + kBlock}, [&](Block& b, Pages all) {
      return each_run(b, all, [&](Pages run) {
        return b.page(run.begin).hold(p) == Hold::Invalid ? 0 : bring_home(b, run);
      });
    });
  }
}

void Driver::replace_process(Processor p, int uffd, DevicePort* port) {
  std::lock_guard guard(ranges_);
  devices_[p]->replace_process(uffd, port);
}

uint64_t Driver::device_bytes(Processor p) const { return devices_[p] ? devices_[p]->frame_bytes() : 0; }

} // namespace hmm
