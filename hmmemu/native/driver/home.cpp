// Driver: pages that come home to the CPU, or are given up everywhere.
//
// Memory that leaves the space, a device that ends, a fork and the end of the space itself all need the same:
// that the CPU has the newest content and nobody else any right. Coming home is no write: protectors stay
// armed, other owners keep what they have, and untouched pages stay untouched.
//
// INVARIANTS
//   - After `bring_home` no device has a right to the pages, and none of them is merged or remote.
//   - After `release_everywhere` nobody has a copy: the pages read as zeros, as if never touched.
// LOCKS: the caller has the pages locked. EDEADLK: other owners of a page are in transition; the caller lets
// go and tries again (Driver::each_block).
#include "driver/driver.h"

#include <cerrno>
#include <cstring>

namespace hmm {

int Driver::bring_home(Block& block, Pages pages) {
  // Untouched pages stay so: zeros everywhere already, unless another owner of theirs has what they hold.
  for (uint64_t a = pages.begin; a < pages.end;) {
    Pages run{a, a + kPage};
    const auto touched = [&](uint64_t page) {
      return !block.page(page).untouched() || block.page(page).several();
    };
    while (run.end < pages.end && touched(run.end) == touched(a)) run.end += kPage;
    if (touched(a))
      if (int error = bring_home_run(block, run)) return error;
    a = run.end;
  }
  return 0;
}

// 0 or EDEADLK.
int Driver::bring_home_run(Block& block, Pages run) {
  return each_run(block, run, [&](Pages part) {
    const PageState state = block.page(part.begin);
    const bool kept = state.watched() || state.several();
    const int error = state.remote()   ? recall_all(block, part)
                      : state.merged() ? bring_home_merged(block, part)
                      : kept           ? bring_home_watched(block, part)
                                       : access_locked(block, part, {kCpu, Access::Write, Cause::Home});
    // Those are gone, or lie behind the end of an object that has become shorter.
    if (!error || error == EFAULT || error == ENXIO) return 0;
    if (error != EDEADLK) fatal("pages at 0x%lx cannot be brought home: %s", part.begin, strerror(error));
    return error;
  });
}

// Coming home is no write: the protectors stay armed, other owners keep their rights to read, and of these
// pages the CPU alone has a Shared copy.
int Driver::bring_home_watched(Block& block, Pages run) {
  if (int error = access_locked(block, run, {kCpu, Access::Read, Cause::Home})) return error;
  return each_run(block, run, [&](Pages part) {
    PageState next = block.page(part.begin);
    for (Processor q = 1; q < processors(); ++q)
      if (next.hold(q) != Hold::Invalid) {
        if (int error = zap_others(block, part, 1u << q)) return error;
        next.set(q, Hold::Invalid);
      }
    commit(block, part, next);
    return 0;
  });
}

// No copy is left anywhere, nor memory that a device keeps for these pages; they are as if never touched.
int Driver::release_everywhere(Block& block, Pages pages) {
  return each_run(block, pages, [&](Pages run) {
    if (!block.page(run.begin).managed()) return 0;
    if (block.page(run.begin).several()) {
      if (int error = step(block, run, {kCpu, Access::Write, Cause::Home})) return error;
    } else if (block.page(run.begin).watched()) { // to forget the content is to write zeros
      if (int error = notify(block, run)) return error;
    }
    if (int error = unmerge(block, run)) return error;
    if (int error = recall_all(block, run)) return error;
    // What a GPU has may come to the CPU's frames: before they go. All others last: if the frames cannot go,
    // nothing is lost.
    const unsigned n = processors();
    for (Processor q = 1; q < n; ++q)
      if (devices_[q]->uses_objects() && block.page(run.begin).in_object())
        if (int error = tables_[q]->release(block, run)) return error;
    for (Processor q = 0; q < n; ++q)
      if (int error = table(q, block.page(run.begin)).release(block, run)) return error;
    change(block, run, [](PageState& state) { state.set_holds(0); });
    return 0;
  });
}

} // namespace hmm
