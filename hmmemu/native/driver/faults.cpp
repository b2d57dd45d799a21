// Driver: page faults, from what the kernel tells to the thread that goes on.
//
// `fault` serves a thread that sleeps in the kernel, `fault_here` the very thread that faulted, in its signal
// handler. Both come to `serve`: under the block's lock it reads the page's state, lets the policy say which
// pages to bring along (`grown`), and locks those; then the transitions are done (`bring`, driver.cpp). Where
// the page is in transition already, the fault is entered in its wait list (`defer`), and tried again when
// that ends (`retry`).
//
// INVARIANTS
//   - No thread is forgotten: it is woken, to go on or to try again, or stands in the wait list of a locked
//     page, or its receiver keeps it for a time (driver/thrashing.h), or it is refused.
//   - A fault is counted before its thread goes on.
// LOCKS: the block's while a state is read and its pages are marked; nothing but the pages after that.
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {
namespace {

void sleep_until(uint64_t time) {
  const timespec until{time_t(time / 1'000'000'000), long(time % 1'000'000'000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {}
}

// Errors of single pages, which need not concern the others.
bool only_neighbours(int error) { return error == ENXIO || error == EFAULT || error == EDEADLK; }

} // namespace

uint64_t Driver::fault(Processor p, const Fault& fault, bool patient) {
  const uint64_t begin = now_ns();
  Block* block = directory_.find(fault.address);
  Obstacle obstacle{fault.address, 0};
  const uint64_t& busy = obstacle.page;
  const int error = block ? until_room([&] { return serve(*block, p, fault, patient, obstacle); }) : EFAULT;
  if (error == ETIME) return obstacle.until;
  if (error == EAGAIN && !(p == kCpu && read_by_driver(*block, fault))) {
    // In transition. Who works on it wakes the thread, or, when there are very many, this one waits.
    if (!defer(busy, p, fault.address)) {
      PageLocks::wait(*directory_.find(busy), busy);
      table(p, block->page(fault.address)).wake({fault.address, fault.address + kPage});
    }
  } else if (error && error != EAGAIN) {
    if (second_tries_.had(fault.thread, fault.address))
      refuse(p, fault.address, error);
    else
      (p == kCpu ? cpu_table(tracker_) : *tables_[p]).wake({fault.address, fault.address + kPage});
  }
  counters_.processor[p].fault_ns.add(now_ns() - begin);
  return 0;
}

bool Driver::fault_here(const Fault& fault) {
  const uint64_t begin = now_ns();
  Block* block = directory_.find(fault.address);
  if (!block) return false;
  Obstacle obstacle{fault.address, 0};
  int error;
  bool patient = true;
  while ((error = serve(*block, kCpu, fault, patient, obstacle)) == EAGAIN || error == ETIME)
    if (error == EAGAIN) {
      PageLocks::wait(*directory_.find(obstacle.page), obstacle.page);
    } else {
      sleep_until(obstacle.until);
      patient = false;
    }
  if (error && is_lost(block->page(fault.address), error)) { // tried again, it is a SIGBUS: beyond_end
    lose_behind({fault.address, fault.address + kPage});
    error = 0;
  }
  if (error && error != EFAULT && error != EPERM)
    fatal("CPU page 0x%lx cannot be brought home: %s", fault.address, strerror(error));
  counters_.processor[kCpu].fault_ns.add(now_ns() - begin);
  return error == 0;
}

// What the thread that faulted is about to do. An atomic operation may begin with a load.
Access Driver::wanted(Processor p, const Fault& fault) const {
  if (p != kCpu)
    if (const Access atomic = devices_[p]->atomic(fault.thread, fault.address); atomic != Access::Read)
      return atomic;
  return fault.write ? Access::Write : Access::Read;
}

// Whether an access takes rights from other processors.
static bool takes_away(const Transition& t) {
  switch (t.step) {
  case Step::Migrate:
  case Step::Admit:
  case Step::Recall:
  case Step::Home:
  case Step::Exclude:
    return true;
  case Step::Upgrade:
    return t.zap != 0;
  case Step::Duplicate:
    return t.protect;
  case Step::Remote:
    return t.next.hold(kCpu) == Hold::Invalid;
  default:
    return false;
  }
}

// What is to be done about a page that others want, too (driver/thrashing.h). Where nothing runs, a fault is
// a message that was read late: two threads faulted, and what the first was given was enough for both.
Thrashing::Advice Driver::advise(PageState state, const Transition& t, Processor p, Access access,
                                 uint64_t page, bool patient) {
  const ThrashingPolicy& policy = policy_.thrashing;
  if (!policy.on || !takes_away(t) || (p != kCpu && devices_[p]->idle())) return {};
  const auto used = [&](Processor q, uint64_t since) {
    return q == kCpu ? since > launched_[p].load() : !devices_[q]->idle();
  };
  Thrashing::Advice advice = thrashing_.fault(policy, p, page, now_ns(), patient, used);
  const bool plain = p != kCpu && (access == Access::Read || access == Access::Write) && !state.read_only();
  if (!advice.pin) return advice;
  const Step step = transition(state, p, Access::Atomic, protocol()).step;
  advice.pin = plain && (step == Step::Home || step == Step::Remote);
  return advice;
}

// Brings the page, and with it as many as the policy says. EAGAIN: it is in transition, or another owner of
// it is.
int Driver::serve(Block& block, Processor p, const Fault& fault, bool patient, Obstacle& obstacle) {
  ProcessorCounters& count = counters_.processor[p];
  Access access = wanted(p, fault);
  Pages region{fault.address, fault.address + kPage};
  Step step;
  bool pin = false, stays = false;
  obstacle.page = fault.address;
  {
    std::lock_guard guard(block.lock);
    const PageState state = block.page(fault.address);
    if (state.locked()) return EAGAIN;
    if (!state.managed()) return EFAULT;
    if (access != Access::Read && state.read_only()) return EPERM;
    if (p != kCpu)
      if (const int error = devices_[p]->forbids(fault.thread, fault.address, access != Access::Read))
        return error;
    const Transition t = transition(state, p, access, protocol());
    step = t.step;
    stays = access == Access::Alone && lendable(state);
    if (step != Step::None) {
      const Thrashing::Advice advice = advise(state, t, p, access, fault.address, patient);
      if ((obstacle.until = advice.wait_until)) {
        count.throttles.add();
        return ETIME;
      }
      pin = advice.pin;
      if (pin) access = Access::Atomic;
      if (!advice.single) region = grown(block, fault.address, p);
    }
    if (p == kCpu && crowded() && !state.watched()) access = Access::Write; // all of it with one protection
    if (access != Access::Read) region = without_merged(block, region, fault.address);
    region = block.whole(region);
    PageLocks::mark(block, region, true);
  }
  int error = 0;
  if (p == kCpu && !fault.present) notice_dropped(block, fault.address);
  if (step == Step::None) {
    repair(block, fault.address, p, fault.present);
    count.spurious_faults.add();
  } else {
    // Counted first: who waits for the page may read the counters the moment it goes on.
    (fault.write ? count.write_faults : count.read_faults).add();
    if (p != kCpu && step != Step::FirstTouch) devices_[p]->count_brought(fault.thread, stays);
    if (pin) {
      count.pinned_pages.add();
      thrashing_.pin(policy_.thrashing, fault.address, now_ns());
    }
    error = bring(block, region, fault.address, {p, access, Cause::Fault, false, &obstacle.page});
  }
  check(block);
  unlock(block, region);
  return error == EDEADLK ? EAGAIN : error;
}

// The pages that the policy says, and what there is to learn of it. Caller holds the block's lock.
Pages Driver::grown(Block& block, uint64_t address, Processor p) {
  if (crowded()) return grow(block, address, p, {true, 0});
  const PageState state = block.page(address);
  if (p != kCpu || state.untouched() || state.remote()) return grow(block, address, p, policy_.growth);
  FaultHistory& history = state.hold(p) == Hold::Shared ? block.upgrades : block.fetches;
  rounds_.faulted();
  GrowthPolicy policy = policy_.growth;
  policy.first_pages = history.pages(rounds_.now());
  const Pages region = grow(block, address, p, policy);
  const auto page = static_cast<unsigned>((address - block.address) / kPage);
  history.fault(rounds_.now(), page, region.count());
  return region;
}

// The page that faulted, and what growth adds to it. Watched pages that are only added count as read. What
// growth adds may lie behind the end of a file, be gone, or have an owner that is in transition, where the
// page that faulted is fine.
int Driver::bring(Block& block, Pages region, uint64_t address, Request request) {
  Request grown = request;
  grown.grown = true;
  const Pages page = block.whole({address, address + kPage});
  if (request.access == Access::Read || !block.page(address).watched()) {
    const int error = access_locked(block, region, grown);
    if (!only_neighbours(error)) return error;
    if (!block.page(address).managed()) return EFAULT; // gone
    return access_locked(block, page, request);
  }
  if (int error = access_locked(block, page, request)) return error;
  for (Pages added : {Pages{region.begin, page.begin}, Pages{page.end, region.end}})
    if (int error = access_locked(block, added, grown); error && !only_neighbours(error)) return error;
  return 0;
}

// Notes that a thread which sleeps in the kernel wants the page at `address`, and has to wait for `busy`,
// which may be another owner. True also if that is in transition no more: then the thread tries again at
// once.
bool Driver::defer(uint64_t busy, Processor p, uint64_t address) {
  Block& block = *directory_.find(busy);
  for (DeferredFault& fault : deferred_) {
    if (fault.used.exchange(true, std::memory_order_acquire)) continue;
    fault.thread = false;
    fault.processor = p;
    fault.address = address;
    {
      std::lock_guard guard(block.lock);
      if (block.page(busy).locked()) {
        PageLocks::enter(block, busy, fault);
        return true;
      }
    }
    fault.used.store(false, std::memory_order_release);
    table(p, directory_.find(address)->page(address)).wake({address, address + kPage});
    return true;
  }
  return false;
}

void Driver::retry(DeferredFault& fault) {
  const Processor p = fault.processor;
  const uint64_t page = fault.address;
  fault.used.store(false, std::memory_order_release);
  table(p, directory_.find(page)->page(page)).wake({page, page + kPage});
}

// A fault on a page that the CPU has, and yet it is not there: mostly another fault on it was served
// meanwhile. Or the program has dropped it (madvise), and it is one of zeros, as it would be without us. Then
// copies of what it held go; if the page is Exclusive, `repair` does all there is to do.
void Driver::notice_dropped(Block& block, uint64_t address) {
  const Pages page = block.whole({address, address + kPage});
  PageState next = block.page(address);
  if (next.hold(kCpu) != Hold::Shared || next.merged()) return;
  if (cpu_table(next.tracker()).restore(block, page) != 0) return;
  for (Processor q = 1; q < processors(); ++q) {
    if (next.hold(q) == Hold::Invalid) continue;
    if (int error = zap_others(block, page, 1u << q))
      fatal("copies of page 0x%lx cannot be dropped: %s", address, strerror(error));
    next.set(q, Hold::Invalid);
  }
  commit(block, page, next);
}

// The thread that faulted is at work on this very page: the program has dropped it, and the driver reads it.
bool Driver::read_by_driver(Block& block, const Fault& fault) {
  if (fault.present || !PageLocks::owned_by(block, fault.address, fault.thread)) return false;
  const Pages page = block.whole({fault.address, fault.address + kPage});
  CpuTable& cpu = cpu_table(block.page(fault.address).tracker());
  if (cpu.restore(block, page) != 0) cpu.wake(page);
  return true;
}

// The state grants the access, and yet it faulted: mostly another fault on the same page was served
// meanwhile, so waking is enough. The two other cases are mended here: a write protection that stayed behind,
// and an Exclusive CPU page that the program itself dropped (madvise), which reads as zeros as it would
// without us. A device without userfaultfd may also have lost rights that it was given (video_memory.h).
void Driver::repair(Block& block, uint64_t address, Processor p, bool present) {
  const Pages page = block.whole({address, address + kPage});
  const PageState state = block.page(address);
  PageTable& mine = table(p, state);
  if (state.hold(p) == Hold::Remote) {
    int error = devices_[p]->lend(block, page);
    if (error && error != ESRCH) error = recall(block, page); // it comes again, and takes the page along
    if (error && error != ESRCH) refuse(p, address, error);
    mine.wake(page);
    return;
  }
  if (state.hold(p) == Hold::Exclusive) {
    if (present)
      mine.unprotect(block, page);
    else if (p == kCpu && mine.zero(block, page, Access::Read, true) == 0)
      return;
  }
  const int error =
      with_memory(p, [&] { return mine.regrant(block, page, state.hold(p) == Hold::Exclusive); });
  if (error == EBUSY)
    mine.wake(page); // it comes again
  else if (error && error != ESRCH)
    refuse(p, address, error);
}

void Driver::refuse(Processor p, uint64_t address, int error) {
  counters_.processor[p].refused_faults.add();
  if (p == kCpu && error != EFAULT && error != EPERM)
    fatal("CPU page 0x%lx cannot be brought home: %s", address, strerror(error));
  refused_error_[p].store(error);
  refused_[p].store(address);
  // Only freed arena memory can get here on the CPU: it reads as zeros until it is allocated again.
  (p == kCpu ? cpu_table(tracker_) : *tables_[p]).refuse({address, address + kPage});
}

Driver::Refusal Driver::take_refusal(Processor p) {
  uint64_t address = refused_[p].exchange(0);
  return {address, refused_error_[p].load()};
}

} // namespace hmm
