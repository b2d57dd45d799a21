// Purpose: compare where in their objects a launch's pages lie. No lock: see the header.
#include "two_places.h"

#include "device/process/device.h"
#include "host_content.h"

#include <algorithm>
#include <vector>

namespace hmmemu::cuda {
namespace {

using namespace device;

struct Run {
  ObjectPlace at;
  uint64_t address;
  bool written;
  uint64_t end() const { return at.offset + at.bytes; }
};

bool is_before(const Run& a, const Run& b) {
  return a.at.file != b.at.file ? a.at.file < b.at.file : a.at.offset < b.at.offset;
}

// What of a launch's memory lies in objects; not what it shares with the CPU, which anybody may write.
std::vector<Run> runs_of(const Slot& slot) {
  std::vector<Run> runs;
  each_reach(*channel, slot, [&](const Reach& reach) {
    if (reach.use == kReachShares) return true;
    const uint64_t end = (reach.end + kPage - 1) / kPage * kPage;
    for (uint64_t address = reach.begin / kPage * kPage; address < end;) {
      const ObjectPlace at = host_content().find_object(address, end);
      if (at.file.inode) runs.push_back({at, address, reach.use == kReachWrites});
      address += at.bytes;
    }
    return true;
  });
  std::sort(runs.begin(), runs.end(), is_before);
  return runs;
}

} // namespace

TwoPlaces find_two_places(const Slot& slot) {
  const std::vector<Run> runs = runs_of(slot);
  for (auto one = runs.begin(); one != runs.end(); ++one)
    for (auto other = one + 1;
         other != runs.end() && other->at.file == one->at.file && other->at.offset < one->end(); ++other) {
      const uint64_t address = one->address + (other->at.offset - one->at.offset);
      if (address != other->address && (one->written || other->written)) return {address, other->address};
    }
  return {};
}

} // namespace hmmemu::cuda
