// What the driver's parts do over and over with pages of one block that they have locked: run by run, change
// by change, and once more where something was in the way.
//
// INVARIANT: what is tried again is tried with nothing locked, and not for ever.
// LOCKS: `each_run` reads states, which nobody else changes, for the caller has the pages locked; `change`
// takes the block's lock, because others look at them under it.
#pragma once
#include "driver/page_locks.h"
#include "protocol/directory.h"
#include "trace/counters.h"
#include <cerrno>
#include <mutex>
#include <unistd.h>

namespace hmm {

// Calls act(run) for each run of like pages, until one returns an error.
template <class Act> int each_run(Block& block, Pages pages, Act act) {
  for (uint64_t a = pages.begin; a < pages.end;) {
    Pages run{a, a + kPage};
    while (run.end < pages.end && block.page(run.end).like(block.page(a))) run.end += kPage;
    a = run.end;
    if (int error = act(run)) return error;
  }
  return 0;
}

// Changes the states of locked pages: others look at them under the block's lock.
template <class Change> void change(Block& block, Pages pages, Change act) {
  std::lock_guard guard(block.lock);
  block.changed();
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) act(block.page(a));
}

// Tries again while other owners of a page are in transition (EDEADLK). Nothing is locked in between.
template <class Act> int until_free(Act act) {
  int error = act();
  for (const Limit limit; error == EDEADLK; error = act()) {
    if (!limit.left())
      fatal("the owners of a page were in transition for more than %lu s: this is a bug, please report it",
            kLongestWait / 1'000'000'000);
    usleep(20);
  }
  return error;
}

// Tries again while a device's memory is full of pages that others have locked (EBUSY); ENOMEM after a
// while.
template <class Act> int until_room(Act act) {
  constexpr uint64_t kLimit = 20'000'000'000; // ns
  int error = act();
  for (const Limit limit(kLimit); error == EBUSY; error = act()) {
    if (!limit.left()) return ENOMEM;
    usleep(100);
  }
  return error;
}

} // namespace hmm
