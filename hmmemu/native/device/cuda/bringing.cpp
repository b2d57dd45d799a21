// Purpose: a launch gets its pages (residency.h): asks the driver for those that are not there, marks its
// blocks, has the content sent. Worker 0 alone, so no lock.
#include "residency.h"

#include "blocks.h"
#include "content.h"
#include "device/process/failure.h"
#include "device/process/page_fault.h"
#include "in_flight.h"
#include "page_bits.h"
#include "two_places.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>
#include <vector>

namespace hmmemu::cuda {
namespace {

using namespace device;

constexpr uint64_t kBringLimit = 300'000'000'000; // ns in which no launch ends
constexpr uint64_t kSlow = 500'000'000;           // ns that few launches take to have their pages

// Calls act(begin, end) for the pages that a launch uses, block by block.
template <class Act> void each_part(const Slot& slot, Act act) {
  each_reach(*channel, slot, [&](const Reach& reach) {
    const uint64_t end = (reach.end + kPage - 1) / kPage * kPage;
    for (uint64_t at = reach.begin / kPage * kPage, to; at < end; at = to)
      act(at, to = std::min(end, block_of(at) + kGranule));
    return true;
  });
}

template <class Act> void each_block(const Slot& slot, Act act) {
  each_part(slot, [&](uint64_t begin, uint64_t) { act(block_of(begin)); });
}

// One launch on its way to having its pages. Worker 0.
class Bringing {
 public:
  Bringing(const Slot& slot, uint64_t ticket) : slot_(slot), ticket_(ticket) {}

  // False: nobody owns the page at refused().
  bool run() {
    take_lent();
    each_part(slot_, [&](uint64_t begin, uint64_t end) {
      const uint64_t block = block_of(begin);
      if (!is_own(block) && !has_lent(block) && !shared_here(block, kGranule)) put(begin, end);
    });
    const uint64_t refused_before = grants_refused();
    uint64_t ended = channel->queue.completed.load();
    bool looked = false;
    for (uint64_t begin = now_ns(), since = begin; !refused_.address;) {
      Page missing;
      if (mark_and_look(missing)) return true;
      if (const uint64_t now = channel->queue.completed.load(); now != ended) ended = now, since = now_ns();
      if (now_ns() - begin > kSlow && !std::exchange(looked, true)) refuse_two_places();
      if (now_ns() - since > kBringLimit)
        give_up("the kernel's pages were taken away faster than they came, for 300 s: does the CPU write to "
                "its arrays all the time?");
      if (grants_refused() - refused_before > most_refused_)
        give_up(
            "the GPU has no memory for all arrays of the launch at a time: does another program use it, or "
            "this one by CuPy or device views?");
      if (missing.address)
        ask(missing);
      else
        each_part(slot_, put);
    }
    return false;
  }

  struct Page {
    uint64_t address = 0; // 0: none
    bool writes = false;
    Wanted wanted = kWantedNothing;
  };
  const Page& refused() const { return refused_; }

 private:
  [[noreturn]] void give_up(const char* why) const {
    wait_for_all();
    fail_launch(ticket_, why);
  }

  void refuse_two_places() const {
    const TwoPlaces found = find_two_places(slot_);
    if (!found.one) return;
    char text[320];
    snprintf(
        text, sizeof text,
        "the launch names the same memory at 0x%lx and at 0x%lx (two mappings of one file or shared "
        "memory), and writes it: a kernel on a GPU has it at one address; give all arguments of one mapping.",
        found.one, found.other);
    give_up(text);
  }

  // Marks the launch's blocks and sees whether all is there; then its content is sent, else the blocks have
  // the marks again that they had: launches in flight use them still.
  bool mark_and_look(Page& missing) {
    const Sending sending;
    marked_.clear();
    each_block(slot_,
               [&](uint64_t block) { marked_.push_back({block, ticket_of(block).exchange(ticket_)}); });
    missing = first_missing();
    if (!missing.address && placed()) {
      send_content(slot_);
      return true;
    }
    while (!marked_.empty()) { // the last first: a block may have been marked twice
      ticket_of(marked_.back().block).store(marked_.back().had);
      marked_.pop_back();
    }
    return false;
  }

  // Calls act(begin, end, right, use) for runs of pages, until one says false.
  template <class Act> void each_run_of_pages(Act act) const {
    each_reach(*channel, slot_, [&](const Reach& reach) {
      return each_right(
          reach.begin / kPage * kPage, (reach.end + kPage - 1) / kPage * kPage,
          [&](uint64_t begin, uint64_t end, uint8_t has) { return act(begin, end, has, reach.use); });
    });
  }

  // What is the CPU's frame still and need not be comes to the GPU.
  void take_lent() {
    each_run_of_pages([&](uint64_t begin, uint64_t end, uint8_t has, uint64_t use) {
      if (has != kLent || use == kReachShares) return true;
      for (uint64_t page = begin; page < end; page += kPage)
        if (right(page) == kLent && !shared_here(page) && !ask({page, use == kReachWrites, kWantedOwn}))
          return false;
      return true;
    });
  }

  // Whether the launch shares anything there.
  bool shared_here(uint64_t address, uint64_t bytes = kPage) const {
    return !each_reach(*channel, slot_, [&](const Reach& reach) {
      return reach.use != kReachShares || address + bytes <= reach.begin || address >= reach.end;
    });
  }

  // The first page that is not there; `end` if all are. A page that cannot be lent will do as the GPU's own.
  uint64_t first_not_there(uint64_t begin, uint64_t end, uint8_t has, uint64_t use) const {
    if (use != kReachShares) return has >= (use == kReachWrites ? kWrite : kRead) ? end : begin;
    if (has == kLent) return end;
    while (has == kWrite && begin < end && cannot_be_lent_.count(begin)) begin += kPage;
    return begin;
  }

  Page first_missing() const {
    Page missing;
    each_run_of_pages([&](uint64_t begin, uint64_t end, uint8_t has, uint64_t use) {
      const uint64_t page = first_not_there(begin, end, has, use);
      if (page == end) return true;
      missing = {page, use != kReachReads, use == kReachShares ? kWantedShare : kWantedNothing};
      return false;
    });
    return missing;
  }

  bool ask(Page page) {
    std::atomic<uint64_t>& wanted = channel->faults[0].wanted; // of this thread
    wanted = page.address | page.wanted;
    const bool there = ask_for_page(page.address, page.writes);
    wanted = kWantedNothing;
    if (!there) refused_ = page;
    if (page.wanted == kWantedShare && right(page.address) == kWrite) cannot_be_lent_.insert(page.address);
    return there;
  }

  bool placed() const {
    bool good = true;
    each_part(slot_, [&](uint64_t begin, uint64_t end) { good = good && is_placed(begin, end); });
    return good;
  }

  const Slot& slot_;
  const uint64_t ticket_;
  // The driver evicts in turn, the launch's own pages, too. Twice around there is room, if there can be any;
  // and others may be fighting for it.
  const uint64_t most_refused_ = 2 * gpu().granules() + 1000;
  Page refused_;
  std::set<uint64_t> cannot_be_lent_;
  struct Marked {
    uint64_t block, had; // had: its ticket before
  };
  std::vector<Marked> marked_;
};

} // namespace

void bring_pages(const Slot& slot, uint64_t ticket, const hmm_kernel& kernel, const hmm_launch& launch) {
  Bringing bringing(slot, ticket);
  try {
    if (bringing.run()) return;
  } catch (const CudaError& error) {
    wait_for_all(); // it may be the failure of one of those
    fail_device(error.what());
  }
  wait_for_all();
  fail_access(ticket, kernel, launch, bringing.refused().address, bringing.refused().writes);
}

} // namespace hmmemu::cuda
