#include "driver/driver.h"

#include "driver/parallel.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace hmm {

Driver::Driver(Policy policy) : policy_(policy), uffd_(Userfaultfd::open()), host_(uffd_) {
  tables_[kCpu] = &host_;
}

Driver::~Driver() = default;

void Driver::check([[maybe_unused]] Block& block) const {
#ifdef HMMEMU_CHECK
  for (unsigned i = 0; i < kPagesPerBlock; ++i)
    if (const char* rule = broken_rule(block.pages[i]))
      fatal("page 0x%lx, state 0x%lx: %s", block.address + i * kPage, block.pages[i].word(), rule);
#endif
}

// ---------------------------------------------------------------------------------------------------- faults

void Driver::fault(Processor p, const Fault& fault) {
  const uint64_t begin = now_ns();
  ProcessorCounters& count = counters_.processor[p];
  const Access access = fault.write ? Access::Write : Access::Read;
  Block* block = directory_.find(fault.address);
  if (!block) return refuse(p, fault.address, EFAULT);

  block->lock.lock();
  const PageState state = block->page(fault.address);
  int error = 0;
  if (!state.managed()) {
    error = EFAULT;
  } else if (transition(state, p, access, policy_.protocol).step == Step::None) {
    repair(*block, fault.address, p, fault.present);
    count.spurious_faults.add();
  } else {
    // Counted first: who waits for the page may read the counters the moment it goes on.
    (fault.write ? count.write_faults : count.read_faults).add();
    error = access_locked(*block, grow(*block, fault.address, p, policy_.growth), {p, access, Cause::Fault});
  }
  check(*block);
  block->lock.unlock();
  if (error) refuse(p, fault.address, error);
  count.fault_ns.add(now_ns() - begin);
}

// The state grants the access, and yet it faulted: mostly another fault on the same page was served
// meanwhile, so waking is enough. The two other cases are mended here: a write protection that stayed behind,
// and an Exclusive CPU page that the program itself dropped (madvise), which reads as zeros as it would
// without us.
void Driver::repair(Block& block, uint64_t address, Processor p, bool present) {
  const Pages page{address, address + kPage};
  if (block.page(address).hold(p) == Hold::Exclusive) {
    if (present)
      table(p).unprotect(block, page);
    else if (p == kCpu && table(p).zero(block, page, Access::Read) == 0)
      return;
  }
  table(p).wake(page);
}

void Driver::refuse(Processor p, uint64_t address, int error) {
  counters_.processor[p].refused_faults.add();
  if (p == kCpu && error != EFAULT)
    fatal("CPU page 0x%lx cannot be brought home: %s", address, strerror(error));
  refused_error_[p].store(error);
  refused_[p].store(address);
  table(p).refuse({address, address + kPage});
}

Driver::Refusal Driver::take_refusal(Processor p) {
  uint64_t address = refused_[p].exchange(0);
  return {address, refused_error_[p].load()};
}

// ----------------------------------------------------------------------------------------------------
// accesses

int Driver::access(Pages pages, Processor p, Access access, Cause cause) {
  return in_parallel(pages, [&](Pages part) {
    return each_block(
        part, [&](Block& block, Pages inner) { return access_locked(block, inner, {p, access, cause}); });
  });
}

int Driver::access_locked(Block& block, Pages pages, Request request) {
  for (uint64_t a = pages.begin; a < pages.end;) {
    const PageState state = block.page(a);
    Pages run{a, a + kPage};
    while (run.end < pages.end && block.page(run.end).holds() == state.holds() &&
           block.page(run.end).managed() == state.managed())
      run.end += kPage;
    a = run.end;
    if (!state.managed()) continue;
    const Transition t = transition(state, request.p, request.access, policy_.protocol);
    if (t.step == Step::None) continue;
    if (int error = perform(block, run, t, request)) return error;
  }
  return 0;
}

int Driver::perform(Block& block, Pages run, const Transition& t, Request request) {
  PageTable& mine = table(request.p);
  ProcessorCounters& count = counters_.processor[request.p];
  switch (t.step) {
  case Step::None:
    return 0;
  case Step::FirstTouch:
    count.first_touch_pages.add(run.count());
    if (int error = mine.zero(block, run, request.access)) return error;
    break;
  case Step::Upgrade:
    if (int error = zap_others(block, run, t.zap)) return error;
    count.upgraded_pages.add(run.count());
    if (int error = mine.unprotect(block, run)) return error;
    break;
  case Step::Duplicate:
  case Step::Migrate:
    return migrate(block, run, t, request);
  }
  commit(block, run, t.next);
  return 0;
}

int Driver::migrate(Block& block, Pages run, const Transition& t, Request request) {
  const uint64_t begin = now_ns();
  PageTable &mine = table(request.p), &theirs = table(t.source);
  TransferCounters& count = counters_.transfer[t.source][request.p];
  count.add(run.count(), t.step == Step::Duplicate, request.cause);
  int error = 0;
  if (t.step == Step::Duplicate) {
    if (t.protect) error = theirs.protect(block, run);
    if (!error) error = mine.install(block, run, theirs.frames(block, run), false);
  } else {
    counters_.processor[t.source].invalidated_pages.add(run.count());
    StagingPool::Use staging(staging_);
    const std::byte* content = theirs.take(block, run, t.protect, *staging);
    error = zap_others(block, run, t.zap & ~(1u << t.source));
    if (!error) error = mine.install(block, run, content, true);
    if (error && request.p != kCpu && host_.install(block, run, content, true) == 0) {
      PageState home = t.next; // nothing is lost: the CPU has it now
      home.set_holds(0);
      home.set(kCpu, Hold::Exclusive);
      commit(block, run, home);
    }
  }
  if (error) return error;
  commit(block, run, t.next);
  count.ns.add(now_ns() - begin);
  return 0;
}

int Driver::zap_others(Block& block, Pages run, uint16_t processors) {
  for (Processor q = 0; processors; ++q, processors >>= 1) {
    if (!(processors & 1)) continue;
    if (int error = table(q).zap(block, run)) return error;
    counters_.processor[q].invalidated_pages.add(run.count());
  }
  return 0;
}

void Driver::commit(Block& block, Pages run, PageState next) {
  for (uint64_t a = run.begin; a < run.end; a += kPage) block.page(a).set_holds(next.holds());
}

void Driver::bring_home(Block& block, Pages pages) {
  // Untouched pages stay so: zeros everywhere already.
  for (uint64_t a = pages.begin; a < pages.end;) {
    Pages run{a, a + kPage};
    const bool touched = !block.page(a).untouched();
    while (run.end < pages.end && !block.page(run.end).untouched() == touched) run.end += kPage;
    a = run.end;
    if (touched) bring_home_run(block, run);
  }
}

// Memory that the program unmapped without telling us (numpy 2.5 frees an array's data before it says that
// the array is gone) takes its content with it: nothing is written to it, and every other copy goes.
void Driver::bring_home_run(Block& block, Pages run) {
  const int error = access_locked(block, run, {kCpu, Access::Write, Cause::Home});
  if (!error) return;
  if (error != ENOENT) fatal("pages at 0x%lx cannot be brought home: %s", run.begin, strerror(error));
  if (run.count() > 1) {
    const uint64_t middle = run.begin + run.count() / 2 * kPage;
    bring_home_run(block, {run.begin, middle});
    return bring_home_run(block, {middle, run.end});
  }
  for (Processor q = 1; q < processors(); ++q) table(q).release(block, run);
  block.page(run.begin).set_holds(0);
}

void Driver::discard(Pages pages) {
  const int error =
      each_block(pages, [&](Block& block, Pages part) { return release_everywhere(block, part); });
  if (error) throw Failure(FailureKind::Error, std::string("discard failed: ") + strerror(error));
}

// No copy is left anywhere, nor memory that a device keeps for these pages; they are as if never touched.
int Driver::release_everywhere(Block& block, Pages pages) {
  const unsigned n = processors();
  for (Processor q = 0; q < n; ++q)
    if (int error = table(q).release(block, pages)) return error;
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) block.page(a).set_holds(0);
  return 0;
}

int Driver::transfer(Processor p, uint64_t address, uint64_t bytes, void* data, Access access) {
  Mapping buffer(kStagingBytes); // `data` may be managed itself: never touched under a lock
  auto* user = static_cast<std::byte*>(data);
  while (bytes) {
    const uint64_t room = kStagingBytes - (address & (kPage - 1));
    const uint64_t to_block_end = block_down(address) + kBlock - address;
    const uint64_t n = std::min({bytes, room, to_block_end});
    if (access == Access::Write) std::memcpy(buffer.as<void>(), user, n);
    const Pages pages = Pages::covering(address, n);
    int error = each_block(pages, [&](Block& block, Pages part) {
      for (uint64_t a = part.begin; a < part.end; a += kPage)
        if (!block.page(a).managed()) return EFAULT;
      if (int failed = access_locked(block, part, {p, access, Cause::Fault})) return failed;
      auto* frames = const_cast<std::byte*>(table(p).frames(block, part)) + (address - part.begin);
      if (access == Access::Write)
        std::memcpy(frames, buffer.as<void>(), n);
      else
        std::memcpy(buffer.as<void>(), frames, n);
      return 0;
    });
    if (!error && !directory_.find(address)) error = EFAULT;
    if (error) return error;
    if (access == Access::Read) std::memcpy(user, buffer.as<void>(), n);
    address += n, user += n, bytes -= n;
  }
  return 0;
}

void Driver::snapshot(Pages pages, uint64_t* words) const {
  Mapping buffer(page_up(kPagesPerBlock * sizeof(uint64_t)));
  for (uint64_t a = pages.begin; a < pages.end;) {
    const Pages part{a, std::min(pages.end, block_down(a) + kBlock)};
    std::memset(buffer.as<void>(), 0, part.count() * sizeof(uint64_t));
    each_block(part, [&](Block& block, Pages inner) {
      std::memcpy(buffer.as<void>(), &block.page(inner.begin), inner.count() * sizeof(uint64_t));
      return 0;
    });
    std::memcpy(words + (a - pages.begin) / kPage, buffer.as<void>(), part.count() * sizeof(uint64_t));
    a = part.end;
  }
}

uint64_t Driver::device_bytes(Processor p) const { return devices_[p] ? devices_[p]->frame_bytes() : 0; }

} // namespace hmm
