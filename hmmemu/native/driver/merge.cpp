// Driver: same-page merging.
//
// A merged page is Shared at the CPU, where it is a mapping of its frame (memory/merged_pages.h); devices may
// have Shared copies, as of any page. It stays so until somebody is to write it, or the CPU is to lose it:
// then it is broken out first (unmerge.cpp), becomes a page like any other, Exclusive at the CPU, and the
// protocol goes on from there (`step`).
//
// ORDER, to merge: write-protect or take the page away -> compare it byte by byte with the frame -> map the
// frame in its place -> catch its faults again -> write-protect -> look whether somebody wrote before that;
// such a store is in a private copy, and the page is broken out with it. To break: zap devices' copies -> map
// own memory in place of the frame -> catch its faults. At no moment is another content seen, and nobody can
// write while somebody else reads an older copy.
//
// LOCKS: `merging_` is held by the one Python thread that merges; pages are locked block by block.
#include "driver/merge.h"
#include "driver/driver.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <unordered_map>

namespace hmm {
namespace {

constexpr unsigned kZeros = ~0u; // a "frame": the kernel's zero page

// One line of /proc/self/maps.
struct MapsLine {
  Pages pages;
  std::string rights, path;
  uint64_t offset = 0, device = 0, node = 0;

  bool shared() const { return rights.size() == 4 && rights[3] == 's'; } // other rights are the trackers'
};

std::vector<MapsLine> maps_of(Pages pages) {
  std::vector<MapsLine> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string text; std::getline(maps, text);) {
    MapsLine line;
    char dash, colon;
    uint64_t major, minor;
    std::istringstream fields(text);
    fields >> std::hex >> line.pages.begin >> dash >> line.pages.end >> line.rights >> line.offset >> major >>
        colon >> minor >> std::dec >> line.node;
    std::getline(fields >> std::ws, line.path);
    line.device = major << 32 | minor;
    if (line.pages.end <= pages.begin || line.pages.begin >= pages.end) continue;
    if (line.pages.begin < pages.begin) line.offset += pages.begin - line.pages.begin;
    line.pages = {std::max(line.pages.begin, pages.begin), std::min(line.pages.end, pages.end)};
    found.push_back(line);
  }
  return found;
}

SourceMapping source_of(const MapsLine& line, bool ours) {
  SourceMapping source{line.pages};
  if (ours) return source;
  if (line.node) source.offset = line.offset;
  source.device = line.device, source.node = line.node;
  if (!line.shared()) return source;
  void* alias = mremap(reinterpret_cast<void*>(line.pages.begin), 0, line.pages.bytes(), MREMAP_MAYMOVE);
  if (alias == MAP_FAILED) throw_errno(FailureKind::OutOfMemory, "cannot map shared memory once more");
  mprotect(alias, line.pages.bytes(),
           PROT_READ | PROT_WRITE); // what a tracker left; not where only reading is allowed
  source.alias = reinterpret_cast<uint64_t>(alias);
  return source;
}

} // namespace

// --------------------------------------------------------------------------------------------------- plan

MergeResult Driver::merge(const std::vector<Pages>& ranges, uint64_t most_mappings) {
  if (!merging_.try_lock()) throw Failure(FailureKind::Error, "another merge of this space is at work");
  std::unique_lock<Lock> guard(merging_, std::adopt_lock);
  if (closed_) throw Failure(FailureKind::Closed, "the address space is closed");
  if (!merged_) merged_.emplace();
  merged_->spare().hold();
  const auto room = MergedPages::room();
  MergeResult result;
  result.mappings = room.used;
  result.most_mappings = most_mappings ? most_mappings : room.limit - room.limit / 4;

  std::vector<MapsLine> sources;
  std::unordered_map<uint64_t, unsigned> seen; // hash -> pages
  std::vector<std::vector<Candidate>> plans;
  for (Pages range : ranges)
    for (const MapsLine& line : maps_of(range)) {
      std::vector<Candidate> found = hash_pages(line.pages, result);
      for (const Candidate& c : found) ++seen[c.hash];
      if (found.empty()) continue;
      sources.push_back(line);
      plans.push_back(std::move(found));
    }
  int error = 0;
  for (size_t i = 0; i < sources.size() && !error && result.stopped == MergeStop::Done; ++i) {
    std::erase_if(plans[i],
                  [&](const Candidate& c) { return seen[c.hash] < 2 && !merged_->store().has(c.hash); });
    if (plans[i].empty()) continue;
    const SourceMapping source = source_of(sources[i], in_arena_file(sources[i].pages.begin));
    const MappingKey key = merged_->store().add(source);
    if (!key) throw Failure(FailureKind::OutOfMemory, "more than 65535 mappings with merged pages");
    Mapping memory(page_up(sizeof(MergePlan)));
    MergePlan& plan = *new (memory.as<void>()) MergePlan{key, source.shared(), source.pages.begin};
    for (size_t at = 0; at < plans[i].size() && result.stopped == MergeStop::Done;) {
      const uint64_t block = block_down(plans[i][at].address);
      std::fill(std::begin(plan.hashes), std::end(plan.hashes), 0);
      for (; at < plans[i].size() && block_down(plans[i][at].address) == block; ++at)
        plan.hashes[(plans[i][at].address - block) / kPage] = plans[i][at].hash;
      const Pages part{std::max(block, source.pages.begin), std::min(block + kBlock, source.pages.end)};
      error = each_block(part, [&](Block& b, Pages pages) { return merge_block(b, pages, plan, result); });
      if (error) break;
      if (result.mappings + 2 > result.most_mappings)
        result.mappings = MergedPages::room().used; // no estimate
    }
    merged_->store().release(key);
  }
  merged_->store().unmap_alias();
  if (error)
    throw Failure(closed_ ? FailureKind::Closed : FailureKind::Error,
                  std::string("pages cannot be merged: ") +
                      (closed_ ? "the address space was closed" : strerror(error)));
  result.store = merged_->store().totals();
  return result;
}

// Brings the pages to the CPU, readable, and hashes them; a page may change afterwards, so this only tells
// which pages are worth a comparison. The memory is read as any thread reads it: no page is locked. Pages
// with several owners are left alone: those share a frame already, into which a store through another owner
// would go.
std::vector<Driver::Candidate> Driver::hash_pages(Pages pages, MergeResult& result) {
  std::vector<uint64_t> words(pages.count());
  snapshot(pages, words.data());
  std::vector<Candidate> found;
  for (uint64_t a = pages.begin; a < pages.end; a += kPage) {
    const PageState state(words[(a - pages.begin) / kPage]);
    // Content that another owner of the page has, this one need not have touched.
    if (!state.managed() || (state.untouched() && !state.linked())) continue;
    if (state.merged()) {
      ++result.scanned, ++result.before;
    } else if (state.linked() || state.huge()) {
      ++result.skipped;
    } else {
      ++result.scanned;
      if (state.hold(kCpu) == Hold::Invalid)
        if (int error = access({a, a + kPage}, kCpu, Access::Read, Cause::Prefetch))
          throw Failure(FailureKind::Error, std::string("cannot read pages to merge: ") + strerror(error));
      // 0 means "none" in a plan.
      found.push_back({a, hash_page(reinterpret_cast<const std::byte*>(a)) | 1});
    }
  }
  return found;
}

// --------------------------------------------------------------------------------------------------- merge

int Driver::merge_block(Block& block, Pages pages, MergePlan& plan, MergeResult& result) {
  if (closed_) return ECANCELED; // its pages came home, or will when we are done here
  const auto wanted = [&](uint64_t a) {
    const PageState state = block.page(a);
    return plan.hashes[(a - block.address) / kPage] && state.managed() && !state.merged() &&
           !state.linked() && state.hold(kCpu) != Hold::Invalid && !state.remote() &&
           (state.shared_mapping() && !in_arena_file(a)) == plan.shared &&
           !(state.read_only() && !plan.shared) && !hides(block, {a, a + kPage});
  };
  return each_run(block, pages, [&](Pages alike) {
    for (uint64_t a = alike.begin; a < alike.end;) {
      Pages run{a, a};
      while (run.end < alike.end && wanted(run.end)) run.end += kPage;
      a = run.end + kPage;
      if (run.empty() || result.stopped != MergeStop::Done) continue;
      if (int error = merge_run(block, run, plan, result)) return error;
    }
    return 0;
  });
}

// No store may go unnoticed while the pages are compared, nor as long as they are merged.
int Driver::merge_run(Block& block, Pages run, MergePlan& plan, MergeResult& result) {
  if (catch_stores(block, run) != 0) {
    result.stopped = MergeStop::MaxMapCount;
    return 0;
  }
  const int error = each_run(block, run, [&](Pages part) {
    return plan.shared ? merge_shared(block, part, plan, result) : merge_own(block, part, plan, result);
  });
  return error ? error : notice_stores(block, run, 1); // what did not merge
}

// Finds a frame for each page of the run, whose content cannot change now.
void Driver::find_frames(Block& block, Pages run, const std::byte* content, MergePlan& plan) {
  FrameStore& store = merged_->store();
  Frame previous = 0;
  for (uint64_t a = run.begin; a < run.end; a += kPage, content += kPage) {
    Frame& frame = plan.frames[(a - run.begin) / kPage];
    const uint64_t hash = plan.hashes[(a - block.address) / kPage];
    frame = 0;
    if (!plan.shared && is_zero_page(content))
      frame = kZeros;
    else if ((hash_page(content) | 1) == hash) // else it was written since it was hashed
      frame = store.claim(page_number(block, a), plan.key, (a - plan.first) / kPage, hash, content,
                          previous ? previous + 1 : 0);
    previous = frame == kZeros ? 0 : frame;
  }
}

// Calls act(pages, frame of the first) for pages that have no frame, or are zeros, or have frames that follow
// each other.
template <class Act> int Driver::each_piece(Pages run, const MergePlan& plan, Act act) {
  const unsigned count = run.count();
  for (unsigned i = 0; i < count;) {
    const Frame first = plan.frames[i];
    const bool follow = first && first != kZeros;
    unsigned n = 1;
    while (i + n < count && plan.frames[i + n] == (follow ? first + n : first)) ++n;
    const uint64_t begin = run.begin + i * kPage;
    i += n;
    if (int error = act(Pages{begin, begin + n * kPage}, first)) return error;
  }
  return 0;
}

// Private memory, and the arena's: the pages are taken away with their frames, so that whoever touches them
// waits, and given back or replaced.
int Driver::merge_own(Block& block, Pages run, MergePlan& plan, MergeResult& result) {
  const PageState state = block.page(run.begin);
  CpuTable& cpu = cpu_table(state.tracker());
  const bool writable = block.page(run.begin).hold(kCpu) == Hold::Exclusive;
  StagingPool::Use staging(staging_);
  const std::byte* content = cpu.take(block, run, writable, *staging);
  if (!content) return 0;
  find_frames(block, run, content, plan);
  const int error = each_piece(run, plan, [&](Pages piece, Frame frame) {
    const std::byte* own = content + (piece.begin - run.begin);
    if (frame == kZeros && writable) {
      result.zeros += piece.count();
      return merge_zeros(block, piece);
    }
    if (frame && frame != kZeros && put_frames(block, piece, frame, result)) return free_merged(block, piece);
    return cpu.install(block, piece, own, writable);
  });
  if (error) fatal("pages at 0x%lx cannot be given back: %s", run.begin, strerror(error));
  cpu.forget_taken(block, run);
  return 0;
}

// Files have no zero page: a page of an arena that lies in one becomes as if never touched.
int Driver::merge_zeros(Block& block, Pages pages) {
  if (in_arena_file(pages.begin)) return release_everywhere(block, pages);
  return cpu_table(block.page(pages.begin).tracker()).zero(block, pages, Access::Read, true);
}

// What the arena's file had of them, where they are still merged. Not where devices have them, too: a GPU may
// be about to read it there.
int Driver::free_merged(Block& block, Pages pages) {
  if (!in_arena_file(pages.begin)) return 0;
  return each_run(block, pages, [&](Pages run) {
    PageState others = block.page(run.begin);
    others.set(kCpu, Hold::Invalid);
    return others.merged() && others.untouched() ? common_.free(run) : 0;
  });
}

// Shared memory stays where it is, in its file; only this mapping of it is replaced.
int Driver::merge_shared(Block& block, Pages run, MergePlan& plan, MergeResult& result) {
  const PageState state = block.page(run.begin);
  CpuTable& cpu = cpu_table(state.tracker());
  const bool writable = state.hold(kCpu) == Hold::Exclusive;
  if (writable) {
    if (int error = cpu.protect(block, run)) return error;
    change(block, run, [](PageState& s) { s.set(kCpu, Hold::Shared); });
  }
  StagingPool::Use staging(staging_);
  const std::byte* content = cpu.frames(block, run, *staging);
  if (content) find_frames(block, run, content, plan);
  return each_piece(run, plan, [&](Pages piece, Frame frame) {
    if (content && frame && put_frames(block, piece, frame, result)) return 0;
    if (!writable) return 0;
    if (int error = cpu.unprotect(block, piece)) return error;
    change(block, piece, [](PageState& s) { s.set(kCpu, Hold::Exclusive); });
    return 0;
  });
}

// Maps the frames, which the pages own already, in place of the pages. False: the pages are as before, and no
// owners.
bool Driver::put_frames(Block& block, Pages pages, Frame frame, MergeResult& result) {
  CpuTable& cpu = cpu_table(block.page(pages.begin).tracker());
  const int rights = block.page(pages.begin).read_only() ? PROT_READ : cpu.merged_rights();
  FrameStore& store = merged_->store();
  const bool full = result.mappings + 2 > result.most_mappings;
  if (full || merged_->map(pages, frame, rights) != 0) {
    result.stopped = full ? MergeStop::MaxMapCount : MergeStop::Memory;
    for (uint64_t a = pages.begin; a < pages.end; a += kPage) store.leave(page_number(block, a));
    return false;
  }
  result.mappings += 2;
  int error = catch_again(block, pages, true);
  if (!error) error = cpu.protect(block, pages);
  if (error) fatal("merged pages at 0x%lx cannot be protected: %s", pages.begin, strerror(error));
  change(block, pages, [](PageState& state) {
    state.set(kCpu, Hold::Shared);
    state.set_merged(true);
  });
  result.merged += pages.count();
  for (uint64_t a = pages.begin; a < pages.end; a += kPage, ++frame) {
    if (std::memcmp(reinterpret_cast<void*>(a), store.content(frame), kPage) == 0) continue;
    if ((error = unmerge(block, {a, a + kPage})))
      fatal("page 0x%lx, written while it was merged: %s", a, strerror(error));
    --result.merged;
  }
  cpu.wake(pages);
  return true;
}

} // namespace hmm
