// The driver: the only writer of page state.
//
// Faults, prefetches and everything else that needs pages somewhere come in as accesses of a processor to a
// range; the protocol says what to do; the page tables do it; the directory is updated; counters count.
//
// INVARIANTS
//   - The state of a page that is not locked is what the page tables of all processors really grant, or more
//     strict in the page tables than in the state (never the other way round, but for rights that are left to
//     a device on which nothing runs: memory/device_table.h).
//   - protocol/transition.h's oracle holds for every page that is not locked (checked in builds with
//     HMMEMU_CHECK).
//   - What a thread does with a page it does with the page locked (driver/page_locks.h).
//   - Driver threads hold no GIL, allocate nothing, and touch no managed address but through frames that are
//   present.
// LOCKS: see base/lock.h. An object of this class lives in mmap'ed memory, not on the heap.
#pragma once
#include "driver/growth.h"
#include "driver/locked_pages.h"
#include "driver/merge.h"
#include "driver/owners.h"
#include "driver/page_locks.h"
#include "driver/protector.h"
#include "driver/second_tries.h"
#include "driver/thrashing.h"
#include "memory/async_table.h"
#include "memory/common_frames.h"
#include "memory/device_table.h"
#include "memory/fork_copy.h"
#include "memory/host_table.h"
#include "memory/merged_pages.h"
#include "memory/own_memory.h"
#include "memory/signal_table.h"
#include "protocol/directory.h"
#include "protocol/transition.h"
#include "trace/counters.h"
#include <algorithm>
#include <mutex>
#include <cerrno>
#include <optional>
#include <unistd.h>
#include <vector>

namespace hmm {

struct Policy {
  GrowthPolicy growth;
  ProtocolPolicy protocol;
  ThrashingPolicy thrashing;
};

// A part of a file, and where it is mapped.
struct FileMapping {
  Pages pages;
  uint64_t offset; // in the file, of the first page
};

class Driver {
 public:
  // `tracker`: how accesses are caught to the arena, and to all other memory that it can watch.
  Driver(Policy policy, Tracker tracker);
  ~Driver();
  Driver(const Driver&) = delete;

  // -- from fault receivers and signal handlers --
  // Serves a fault whose thread sleeps until the page tables let it go on. Returns without waiting for pages
  // that are in transition. Not 0: nothing was done; the page is another processor's until that time
  // (now_ns()), and the fault to be served then. Only who is `patient` gets that answer.
  uint64_t fault(Processor p, const Fault& fault, bool patient);
  // Serves a fault of this very thread (tracker `signal`), which tries again afterwards. False: not ours to
  // serve, a real access violation.
  bool fault_here(const Fault& fault);

  // -- from any thread but a driver's --
  // Gives `p` the right to `access` every page of the range. Pages that nobody owns are skipped. 0 or errno.
  int access(Pages pages, Processor p, Access access, Cause cause);
  // Whether the program uses a device's memory of the pages by itself: then they leave the device for those
  // only who ask for them.
  void mark_viewed(Pages pages, bool viewed);
  // Drops every copy; the range reads as zeros afterwards.
  void discard(Pages pages);
  // Copies between `data` and the range as a device sees it, bringing the pages there as its own accesses
  // would.
  int transfer(Processor p, uint64_t address, uint64_t bytes, void* data, Access access);
  // PageState words, one a page.
  void snapshot(Pages pages, uint64_t* words);
  // Finds the stores of the CPU that were not caught (Tracker::Async), now. `update`: device copies of those
  // pages get the new content and stay, else they go.
  // `with_owners`: those made through other addresses of the same pages, too.
  void notice_writes(Pages pages, bool update, bool with_owners = true);
  void notice_all_writes(bool update);

  // -- ranges: Python threads --
  // Address space for arrays, in whole blocks, known to this process's userfaultfd as a whole. `in_file`: its
  // frames lie in the file of the common frames, for ever, where devices can use them; else it is private.
  Pages make_arena(uint64_t bytes, bool in_file);
  // Takes ownership of pages of the arena for one array; they start untouched.
  void allocate(Pages pages);
  void free(Pages pages);
  // Existing memory. The new pages start Exclusive at the CPU, but for those that are managed at other
  // addresses too. `kind`, `objects`: what was found at `looked_at`, the runs of pages that nobody owned; the
  // objects are those of them that lie in files or shared memory. None if others are unowned by now: look
  // again. Returns the runs of pages that were not owned before, with the whole of huge pages.
  std::optional<std::vector<Pages>> add_range(Pages pages, MemoryKind kind,
                                              const std::vector<Pages>& looked_at,
                                              const std::vector<ObjectMapping>& objects);
  // The range, with the whole of the huge pages at its ends.
  Pages whole(Pages pages) const;
  // The runs of pages that nobody owns.
  std::vector<Pages> unowned(Pages pages) const { return runs(pages, 0); }
  // Brings the pages home; those nobody else owns become plain memory. Returns them.
  std::vector<Pages> drop_range(Pages pages);
  // The end, in two steps: every page comes home and no range can be added any more; then, when no receiver
  // reads faults any more, the userfaultfd goes, and with it all registrations: plain memory.
  void bring_all_home();
  void release();

  // -- protectors: Python threads --
  // Registers a protector, behind those that there are. It watches nothing yet.
  void watch(Protector& protector);
  // From now on the next write to each of the pages (those of its range that are managed) is told to it.
  void arm(Protector& protector, Pages pages);
  // Takes it out. Afterwards no thread is in it or will enter it.
  void drop(Protector& protector);
  // Calls visit(page, content) for each managed page, with its present content and the page locked; nullptr
  // where it cannot be read.
  void read_pages(Pages pages, void (*visit)(void* context, uint64_t page, const std::byte*), void* context);

  // -- pages of files (files.cpp): Python threads, but for beyond_end --
  // A file may have been written by somebody else: copies of what devices read go. Returns how many pages
  // were written by both, a device and somebody else; there the device's content is given up.
  uint64_t reload(Pages pages);
  // pwrite and ftruncate that go through the protectors, and invalidate copies, before they change the file.
  // 0 or errno.
  int write_file(int fd, const FileMapping& file, uint64_t offset, const void* data, uint64_t bytes);
  int truncate_file(int fd, const FileMapping& file, uint64_t bytes);
  // The CPU touched a page behind the end of its file (SIGBUS): a private page of zeros takes its place, and
  // it is noted. False: no page of a file of ours. In a signal handler.
  bool beyond_end(const Fault& fault);
  // `tell` is called, in the signal handler, when a page has been noted; take: (address, pthread) of each.
  static void on_beyond_end(void (*tell)());
  static std::vector<std::pair<uint64_t, uint64_t>> take_beyond_end();
  // The file has `bytes` now: pages of zeros make way for it, as far as it goes.
  int show_again(int fd, const FileMapping& file, uint64_t bytes);
  // Drops devices' copies of the pages; the CPU has them alone.
  void lose_behind(Pages pages);

  // -- same-page merging (merge.cpp): Python threads --
  // Finds pages of the ranges with equal content and keeps one frame for each set. Stops when the process has
  // about `most_mappings` mappings (0: three quarters of vm.max_map_count). One at a time.
  MergeResult merge(const std::vector<Pages>& ranges, uint64_t most_mappings);
  // The merged ones of the pages become ordinary pages.
  void break_pages(Pages pages);
  // The page's record: the owners of its frame, up to `limit` of them, and their number. 0: nobody else has
  // it.
  Frame record(uint64_t address, Owner* owners, unsigned limit, unsigned& count);

  // -- devices --
  Processor attach(int vram, int uffd, DevicePort* port);
  // Around the queueing of anything that runs on the device: it has the rights then that the directory says.
  // `waits`: a kernel that may wait for what others write (waiting.cpp).
  void before_launch(Processor p, bool waits);
  void after_launch(Processor p) { devices_[p]->started(); }
  // Everything that `p` holds comes home. Afterwards its process may be gone.
  void evacuate(Processor p);
  void replace_process(Processor p, int uffd, DevicePort* port);
  Userfaultfd& device_userfaultfd(Processor p) { return devices_[p]->userfaultfd(); }

  // -- fork: called in this order by the fork handlers of fork.cpp --
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

  Tracker tracker() const { return tracker_; }
  bool uses_signals() const { return cpu_[static_cast<unsigned>(Tracker::Signal)]; }
  Userfaultfd& userfaultfd() { return uffd_; }
  // The file of the frames that devices may map, at their addresses.
  int common_frames() const { return common_.file(); }
  // Empty if the arena is private memory.
  Pages arena_in_file() const { return arena_kind_.shared ? arena_ : Pages{}; }
  Userfaultfd& synchronous() { return sync_; }
  Counters& counters() { return counters_; }
  unsigned processors() const { return processors_.load(std::memory_order_acquire); }
  // The last access of `p` that could not be served: address (0: none) and errno (EFAULT: nobody owns it).
  // Cleared by reading.
  struct Refusal {
    uint64_t address;
    int error;
  };
  Refusal take_refusal(Processor p);
  uint64_t device_bytes(Processor p) const;
  // Memory of a device, bytes; beyond it, it evicts. 0: no limit.
  void set_capacity(Processor p, uint64_t bytes) { capacity_[p] = bytes; }
  Policy& policy() { return policy_; }

 private:
  struct Request {
    Processor p;
    Access access;
    Cause cause;
    bool grown = false;       // brought along with a page that faulted: nobody writes there yet
    uint64_t* busy = nullptr; // set with EDEADLK: a page to wait for, with nothing locked
  };
  // The page table that speaks for a page on `p`.
  PageTable& table(Processor p, PageState state) const {
    return p == kCpu ? *cpu_[static_cast<unsigned>(state.tracker())] : *tables_[p];
  }
  CpuTable& cpu_table(Tracker tracker) const { return *cpu_[static_cast<unsigned>(tracker)]; }
  // What holds now; asked for with the page locked.
  ProtocolPolicy protocol() const { return {policy_.protocol.read_duplication, kernels_wait()}; }
  // The process has about as many mappings as it may (vm.max_map_count). From now on whole blocks move, so
  // that neighbours get the same protection and the kernel makes one mapping of them.
  bool crowded() const { return signal_ && signal_->tight(); }

  // Pages or a PageSet.
  template <class Some> void unlock(Block& block, const Some& pages) {
    PageLocks::unlock(block, pages, [this](DeferredFault& fault) { retry(fault); });
  }
  // Locks the pages of one block after the other, in ascending order, and calls visit(block, pages of it)
  // with them locked, until one returns an error; once more for a block where it returns EDEADLK. Of a huge
  // page it visits the whole.
  template <class Visit> int each_block(Pages pages, Visit visit) {
    for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
      Block* block = directory_.find(a);
      if (!block) continue;
      const int error = until_free([&] {
        const Pages part = PageLocks::lock(*block, Pages{a, std::min(pages.end, block->address + kBlock)});
        const int failed = visit(*block, part);
        check(*block);
        unlock(*block, part);
        return failed;
      });
      if (error) return error;
    }
    return 0;
  }
  // act(run) for pages that are alike. Where a part of them lies behind the end of a file, or is gone: for as
  // much as there is. EFAULT: some were gone, and are forgotten.
  template <class Act> int as_far_as_mapped(Block& block, Pages run, Act act) {
    const int error = act(run);
    if (error != ENXIO && error != ENOENT) return error;
    if (run.count() == 1 || block.page(run.begin).huge()) {
      if (error == ENXIO && is_mapped(run)) return error;
      forget_gone(block, run);
      return EFAULT;
    }
    const uint64_t middle = run.begin + run.count() / 2 * kPage;
    int result = 0;
    for (Pages half : {Pages{run.begin, middle}, Pages{middle, run.end}}) {
      const int failed =
          each_run(block, half, [&](Pages part) { return as_far_as_mapped(block, part, act); });
      if (!result) result = failed;
    }
    return result;
  }
  void check([[maybe_unused]] Block& block) const {
#ifdef HMMEMU_CHECK
    std::lock_guard guard(block.lock);
    for (unsigned i = 0; i < kPagesPerBlock; ++i)
      if (const char* rule = block.pages[i].locked() ? nullptr : broken_rule(block.pages[i]))
        fatal("page 0x%lx, state 0x%lx: %s", block.address + i * kPage, block.pages[i].word(), rule);
#endif
  }
  bool in_arena_file(uint64_t page) const {
    return arena_kind_.shared && arena_.begin <= page && page < arena_.end;
  }

  // Whoever gets a block and pages of it finds them locked by the caller, unless it is said otherwise.

  // -- faults.cpp --
  // What a fault has to wait for: a page in transition (EAGAIN), or a time (ETIME).
  struct Obstacle {
    uint64_t page;
    uint64_t until;
  };
  int serve(Block& block, Processor p, const Fault& fault, bool patient, Obstacle& obstacle);
  Access wanted(Processor p, const Fault& fault) const;
  // Caller holds the block's lock for these two.
  Thrashing::Advice advise(PageState state, const Transition& t, Processor p, Access access, uint64_t page,
                           bool patient);
  Pages grown(Block& block, uint64_t address, Processor p);
  int bring(Block& block, Pages region, uint64_t address, Request request);
  bool defer(uint64_t busy, Processor p, uint64_t address);
  void retry(DeferredFault& fault);
  void notice_dropped(Block& block, uint64_t address);
  bool read_by_driver(Block& block, const Fault& fault);
  void repair(Block& block, uint64_t address, Processor p, bool present);
  void refuse(Processor p, uint64_t address, int error);

  // -- requests.cpp --
  bool granted(Pages part, Processor p, Access access); // nothing is locked
  int copy_locked(Block& block, Pages pages, Processor p, Access access, uint64_t address, uint64_t bytes,
                  std::byte* buffer);

  // -- transitions.cpp --
  void protect_ahead(Block& block, Pages pages, Request request);
  int access_locked(Block& block, Pages pages, Request request);
  int step(Block& block, Pages run, Request request);
  int step_at_once(Block& block, Pages run, Request request);
  int act(Block& block, Pages run, const Transition& transition, Request request);
  int act_with_memory(Block& block, Pages run, Transition transition, Request request);
  int perform(Block& block, Pages run, const Transition& transition, Request request);
  int migrate(Block& block, Pages run, const Transition& transition, Request request);
  void give_refuge(Block& block, Pages run, Processor p, const std::byte* content, bool writable,
                   PageState state);
  int zap_others(Block& block, Pages run, uint16_t processors);
  void commit(Block& block, Pages run, PageState next);
  void forget_gone(Block& block, Pages run);
  int install_mapped(Block& block, Pages run, const std::byte* content, PageState next);

  // -- home.cpp --
  int bring_home(Block& block, Pages pages);
  int bring_home_run(Block& block, Pages run);
  int bring_home_watched(Block& block, Pages run);
  int release_everywhere(Block& block, Pages pages);

  // -- evict.cpp: with other pages locked, so these lock what is free only --
  int make_room(Processor p);
  int evict_one(Processor p);
  // Calls `act` again while a GPU has no memory left for it (ENOMEM) and others' pages there can go. EBUSY:
  // the memory is in the hands of others.
  template <class Act> int with_memory(Processor p, Act act) {
    int error = act();
    if (p == kCpu || !devices_[p]->has_own_memory()) return error;
    for (uint32_t tries = 2 * directory_.size(); error == ENOMEM && tries; --tries)
      if (!(error = evict_one(p))) error = act();
    return error;
  }
  enum class Evicted { None, Busy, Some };
  Evicted evict_from(Block& block, Processor p);
  bool evict_locked(Block& block, Pages pages, Processor p);

  // -- driver.cpp, ranges.cpp and devices.cpp: nothing is locked --
  void use_signals();
  void make_arena_private();
  Tracker tracker_for(MemoryKind kind);
  std::vector<Pages> own_range(Pages& pages, MemoryKind kind, const std::vector<ObjectMapping>& objects);
  // Runs of pages in the range that have exactly `owners` owners.
  std::vector<Pages> runs(Pages pages, unsigned owners) const;
  static void set_start(Block& block, uint64_t address) { // that page is locked
    change(block, {address, address + kPage}, [](PageState& state) { state.set_start(true); });
  }
  void take_left(Processor p);

  // -- owners.cpp --
  // One page, many owners (owners.cpp). EDEADLK: other owners are in transition; let go, and try again.
  PageNumber next_owner(PageNumber page) const;
  void set_next_owner(PageNumber page, PageNumber next);
  bool owners_follow(PageNumber first, uint64_t k) const;
  bool locked_here(PageNumber page) const;
  Pages find_owners(Block& block, Pages run, OtherOwners& others) const;
  int lock_owners(Block& block, Pages run, OtherOwners& others, uint64_t* busy);
  void unlock_owners(OtherOwners& others);
  bool may_wait_for(const Block& block, uint64_t page, PageNumber own) const;
  void check_owners(Block& block, Pages run, OtherOwners& others) const;
  int step_with_owners(Block& block, Pages run, Request request);
  int settle(OtherOwners& others, Access access);
  int settle_owner(Block& block, Pages pages, Access access);
  int settle_run(Block& block, Pages run, Access access);
  static bool any_gone(Block& block, Pages run);
  int give_own_pages(Block& block, Pages run);
  int show(Block& block, Pages run);
  int notify_owners(Block& block, Pages run, OtherOwners& others);
  int notify_all(Block& block, Pages run);
  int watch_owners(Block& block, Pages run);
  int watch_others(OtherOwners& others);
  int join(Block& block, Pages run, OtherOwners& others);
  int watch_like(Block& block, Pages run, OtherOwners& others);
  int give_up(Block& block, Pages run);
  int leave(Block& block, Pages run);
  int leave_all(Block& block, Pages pages);
  void link_page(Block& block, uint64_t page, MappingKey key);
  void unlink_page(Block& block, uint64_t page);
  void list_owners(Block& block, uint64_t page, Owner* owners, unsigned limit, unsigned& count) const;
  // Calls act(part of the run, its other owners), with those locked, for one part after the other.
  template <class Act> int with_owners(Block& block, Pages run, Act act, uint64_t* busy = nullptr) {
    while (!run.empty()) {
      OtherOwners others;
      const Pages piece = find_owners(block, run, others);
      if (int error = lock_owners(block, piece, others, busy)) return error;
      const int error = act(piece, others);
      unlock_owners(others);
      if (error) return error;
      run.begin = piece.end;
    }
    return 0;
  }
  int catch_like(Block& block, Pages run, const OtherOwners::Run& other);
  // Nothing is locked.
  MappingKey new_mapping(const ObjectMapping& object);
  void refuse_too_many_owners(const std::vector<ObjectMapping>& fresh) const;
  int adopt(const ObjectMapping& object);

  // -- files.cpp --
  void lose(Block& block, Pages run);
  int claim(Block& block, Pages pages);
  int reload_away(Block& block, Pages run, uint64_t& lost);
  bool is_as_remembered(Block& block, Pages page, Processor p);
  void remember(Block& block, Pages run, Processor p, const std::byte* content);
  bool hides(Block& block, Pages run) const;
  static bool is_lost(PageState state, int error);
  uint64_t& sum(const Block& block, uint64_t page) {
    return sums_.as<uint64_t>()[block.slot * kPagesPerBlock + (page - block.address) / kPage];
  }

  // -- merge.cpp --
  struct Candidate {
    uint64_t address, hash;
  };
  std::vector<Candidate> hash_pages(Pages pages, MergeResult& result); // nothing is locked
  int merge_block(Block& block, Pages pages, MergePlan& plan, MergeResult& result);
  int merge_run(Block& block, Pages run, MergePlan& plan, MergeResult& result);
  int merge_own(Block& block, Pages run, MergePlan& plan, MergeResult& result);
  int merge_zeros(Block& block, Pages pages);
  int free_merged(Block& block, Pages pages);
  int merge_shared(Block& block, Pages run, MergePlan& plan, MergeResult& result);
  void find_frames(Block& block, Pages run, const std::byte* content, MergePlan& plan);
  template <class Act> int each_piece(Pages run, const MergePlan& plan, Act act);
  bool put_frames(Block& block, Pages pages, Frame frame, MergeResult& result);

  // -- unmerge.cpp --
  // Caller holds the block's lock.
  static Pages without_merged(Block& block, Pages region, uint64_t address);
  int break_first(Block& block, Pages run, Request request);
  int unmerge(Block& block, Pages pages);
  int unmerge_run(Block& block, Pages run);
  int own_memory(Block& block, Pages run);
  void forget_merged(Block& block, Pages run);
  int catch_again(Block& block, Pages pages, bool merged);
  int zap_copies(Block& block, Pages run);
  int bring_home_merged(Block& block, Pages run);
  void reload_merged(Block& block, Pages run);
  // Both within transitions of other pages: locks neighbours as far as they are free.
  Pages lock_around(Block& block, Pages run);
  void unlock_around(Block& block, Pages run, Pages wide);

  // -- protect.cpp --
  int notify(Block& block, Pages run, OtherOwners* others = nullptr);
  int watch_run(Block& block, Pages run);
  int keep_content(Block& block, Pages run);
  void unwatch(Block& block, Pages pages);
  bool armed_by_any(uint64_t page) const;
  void close_protector_holes();
  // Calls visit(protector) for each protector, in order of registration.
  template <class Visit> void each_protector(Visit visit) const {
    const unsigned end = protectors_end_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < end; ++i)
      if (Protector* p = protectors_[i].load(std::memory_order_acquire)) visit(*p);
  }
  const std::byte* content(Block& block, Pages run, Staging& staging);
  const std::byte* frames(Processor p, Block& block, Pages run, Staging& staging);
  template <class Visit> void each_content(Block& block, Pages run, Visit visit);

  // -- notice.cpp --
  // What devices were given in one go: pages, and since when.
  struct DeviceUpdate {
    uint64_t begin;
    Moves moved[kMaxProcessors];
  };
  // Nothing is locked.
  void notice_block(Block& block, Pages pages, bool update);
  void tell_found(Pages pages, bool update);
  void tell_block(Block& block, Pages pages, DeviceUpdate* news);
  // The pages are locked.
  int notice_locked(Block& block, Pages pages, bool update);
  int notice_own(Block& block, Pages pages, DeviceUpdate* news);
  int tell_locked(Block& block, const PageSet& written, DeviceUpdate* news);
  int tell_run(Block& block, Pages run, DeviceUpdate* news);
  void cpu_wrote(Block& block, Pages run);
  bool update_devices(Block& block, Pages run, DeviceUpdate& news);
  void count(const DeviceUpdate& news);

  // -- retrack.cpp --
  // Shorter runs are not worth a mapping of their own, of which a process has so many only.
  static constexpr uint64_t kWorthMapping = 16;
  int catch_stores(Block& block, Pages pages);
  int catch_run(Block& block, Pages run);
  int hand_over(Block& block, Pages run);
  int hand_over_shared(Block& block, Pages run, PageSet& written);
  int notice_stores(Block& block, Pages pages, uint64_t at_least = kWorthMapping);

  // -- waiting.cpp --
  bool kernels_wait() const;
  void end_pins();
  void part_from_devices();
  int part(Block& block, Pages run);

  // -- remote.cpp --
  template <class Act> int each_remote(PageState state, Act act);
  int over_the_link(Block& block, Pages run, const Transition& t, Request request);
  int lend(Block& block, Pages run, Processor p, const Transition& t);
  int put_in_common(Block& block, Pages run, Processor p);
  int exclude(Block& block, Pages run, Processor p);
  int admit(Block& block, Pages run);
  int end_lend(Block& block, Pages run, PageState state, Processor but);
  int recall(Block& block, Pages run);
  int take_from_common(Block& block, Pages run);
  int recall_all(Block& block, Pages pages);
  int recall_files(Block& block, Pages pages);
  int lose_remote(Pages run, PageState state);
  const std::byte* lent_frames(Block& block, Pages run, Staging& staging);

  // -- forked.cpp --
  void lock_everything();
  void unlock_everything();
  template <class Act> int each_touched(Act act);
  void freeze(Block& block, Pages run);
  void thaw(Block& block, Pages run);
  void copy_arena();

  static constexpr unsigned kMostProtectors = 1024, kMostDeferred = 1024;

  Policy policy_;
  const Tracker tracker_;
  Userfaultfd uffd_; // none under Tracker::Signal
  Userfaultfd sync_; // under Tracker::Async: of pages whose stores must be caught all the same (retrack.cpp)
  Lock ranges_;
  Directory directory_;
  StagingPool staging_;
  Counters counters_;
  AliasMap aliases_;
  std::optional<HostTable> host_;     // under Tracker::Uffd, and under Tracker::Async (of `sync_`)
  std::optional<AsyncTable> async_;   // under Tracker::Async
  std::optional<SignalTable> signal_; // made when the first memory needs it
  CpuTable* cpu_[kTrackers] = {};
  std::optional<DeviceTable> devices_[kMaxProcessors]; // in place: driver threads must not read the heap
  PageTable* tables_[kMaxProcessors] = {};
  std::atomic<unsigned> processors_{1};
  std::atomic<Protector*> protectors_[kMostProtectors] = {}; // in order of registration, with holes
  std::atomic<unsigned> protectors_end_{0};                  // changed under ranges_
  DeferredFault deferred_[kMostDeferred];
  std::atomic<uint64_t> refused_[kMaxProcessors] = {};
  std::atomic<int> refused_error_[kMaxProcessors] = {};
  SecondTries second_tries_;
  std::atomic<bool> waits_[kMaxProcessors] = {}; // what is queued there may wait for others
  std::atomic<bool> any_waits_{false};           // on some device: looked at first
  Thrashing thrashing_;
  FaultRounds rounds_;
  std::atomic<uint64_t> launched_[kMaxProcessors] = {};   // when something was queued last
  std::atomic<uint64_t> capacity_[kMaxProcessors] = {};   // bytes, 0: no limit
  std::atomic<uint64_t> reserved_[kMaxProcessors] = {};   // pages about to get a frame
  std::atomic<uint32_t> evict_next_[kMaxProcessors] = {}; // block to look at next
  FrameMap hidden_; // pages of files that show zeros to the CPU, because they lie behind the end
  // Of each page of a file that the CPU gave away, what it held then.
  Mapping sums_{uint64_t{Directory::kMostBlocks} * kPagesPerBlock * sizeof(uint64_t), true};
  Pages arena_;
  MemoryKind arena_kind_;              // shared: it lies in the file of common_
  CommonFrames common_;                // of private pages that are remote, and of the arena
  ForkCopy fork_copy_;                 // of the arena, between the fork handlers
  OwnMemory own_memory_;               // ... that were
  std::vector<ObjectMapping> objects_; // by key - 1; guarded by ranges_
  Lock merging_;                       // one merge at a time
  std::optional<MergedPages> merged_;  // made by the first merge, under merging_
  std::atomic<bool> closed_{false};
};

} // namespace hmm
