// Driver: pages of which every store must be caught, where stores are noticed afterwards
// (Tracker::Async).
//
// A page that is merged, or remote, or whose content a protector wants before a write, is handed over to a
// userfaultfd that catches stores (`sync_`), and given back when that is over. Its tracker is Tracker::Uffd
// meanwhile, and everything else follows from that. A mapping has one descriptor, so there is a moment at
// which nobody catches anything; hence these rules.
//
// INVARIANTS
//   - Only pages that the CPU has are handed over: they are there, and an access in that moment needs nobody.
//   - A store in that moment to a page that somebody else has or watches is found by comparing the content
//     (not one of the value that was there: it changed nothing). A page that the CPU alone has, unwatched,
//     is plain memory, whose stores are nobody's business.
//   - Of a page with several owners the stores through all are caught, or through none: who joins does what
//   the
//     others do (owners.cpp), and none goes back.
//   - What `sync_` watches has Tracker::Uffd, and nothing else has; freed memory of the arena goes back.
// LOCKS: the pages'.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {

// From now on every store of the CPU to those of the pages that it has is caught. What was stored before is
// told. ENOMEM: too many mappings; some are as before.
int Driver::catch_stores(Block& block, Pages pages) {
  if (!async_) return 0;
  return each_run(block, pages, [&](Pages run) {
    const PageState state = block.page(run.begin);
    const bool wanted = state.managed() && state.tracker() == Tracker::Async;
    return wanted && state.hold(kCpu) != Hold::Invalid ? catch_run(block, run) : 0;
  });
}

int Driver::catch_run(Block& block, Pages run) {
  const PageState state = block.page(run.begin);
  if (state.hold(kCpu) == Hold::Exclusive) return hand_over(block, run);
  PageSet written;
  const int error = hand_over_shared(block, run, written);
  if (error == ENXIO) return error;
  written.each_run([&](unsigned begin, unsigned end) {
    const Pages part = block.range(begin, end);
    if (state.watched()) notify(block, part); // its protectors have the content: they were armed here
    cpu_wrote(block, part);
  });
  async_->told();
  return error;
}

int Driver::hand_over(Block& block, Pages run) {
  const int error = async_->hand_over(block, run, *host_);
  if (!error) change(block, run, [](PageState& state) { state.set_tracker(Tracker::Uffd); });
  return error;
}

// Of Shared pages, with those that were written until they are protected again. ENXIO: they cannot be read,
// and all is as before.
int Driver::hand_over_shared(Block& block, Pages run, PageSet& written) {
  StagingPool::Use staging(staging_);
  const std::byte* now = async_->frames(block, run, *staging);
  if (!now) return ENXIO;
  std::memcpy((*staging).data(), now, run.bytes());
  int failed = async_->written(block, run, written); // what was stored before it was copied
  const int error = hand_over(block, run);
  if (!failed) failed = cpu_table(block.page(run.begin).tracker()).protect(block, run);
  if (failed) fatal("CPU pages at 0x%lx cannot be protected: %s", run.begin, strerror(failed));
  for (uint64_t a = run.begin; a < run.end; a += kPage)
    if (std::memcmp((*staging).data() + (a - run.begin), now + (a - run.begin), kPage) != 0)
      written.set(static_cast<unsigned>((a - block.address) / kPage));
  return error;
}

// Pages whose stores were caught, and need not be any more, go back: runs of `at_least` pages.
int Driver::notice_stores(Block& block, Pages pages, uint64_t at_least) {
  if (!async_) return 0;
  return each_run(block, pages, [&](Pages run) {
    const PageState state = block.page(run.begin);
    if (!state.managed() || state.linked() || state.tracker() != Tracker::Uffd) return 0;
    if (state.hold(kCpu) != Hold::Exclusive || state.remote() || run.count() < at_least) return 0;
    if (int error = host_->hand_over(block, run, *async_)) return error;
    change(block, run, [](PageState& s) { s.set_tracker(Tracker::Async); });
    return 0;
  });
}

} // namespace hmm
