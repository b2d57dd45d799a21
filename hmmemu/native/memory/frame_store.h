// The frame store: one frame for each distinct content of merged pages, and the record of who owns it.
//
// Frames are pages of a file of ours (a memfd that nobody can shrink). A merged page is a private mapping of
// its frame, so that equal pages share memory, and the kernel's own copy-on-write keeps even a store that
// nobody noticed away from the frame.
//
// ONE PAGE, MANY OWNERS. The record of a frame lists its owners, one entry for each page that is merged into
// it: (mapping, offset, private data). Where an owner's page lies, its offset in the mapped object and what
// is needed to give it back its own memory are looked up with the mapping as the key; the page itself says
// nothing of them (it has one address in each of its mappings).
//
// INVARIANTS
//   - A frame's content never changes while it has an owner; a frame without owners is free.
//   - Frames in use with equal content: one, but for those that a run wanted side by side (`claim`).
//   - An entry belongs to one page of the directory (PageNumber), so a page is merged into one frame at most.
// LOCK: `lock_` guards frames, entries and mappings; see base/lock.h. Nothing here allocates but the
// constructor: driver threads break pages.
#pragma once
#include "base/lock.h"
#include "base/mapping.h"
#include "base/pages.h"
#include <cstddef>
#include <mutex>

namespace hmm {

using Frame = uint32_t;      // number of a frame; 0: none
using PageNumber = uint64_t; // block slot * kPagesPerBlock + page in the block
using MappingKey = uint32_t; // 0: none

// A mapping that merged pages came from.
struct SourceMapping {
  Pages pages;                   // where it lies
  uint64_t offset = 0;           // of its first page in the mapped object (file offset; 0: anonymous)
  uint64_t device = 0, node = 0; // the object: its file system and number there; 0, 0: anonymous
  uint64_t alias = 0; // shared memory: where the same memory is mapped once more; 0: private memory
  uint64_t users = 0; // merged pages of it, and merges at work

  bool shared() const { return alias != 0; }
};

// An entry of a frame's record, with what its mapping says of it.
struct Owner {
  MappingKey mapping;
  uint64_t offset;       // in the mapped object
  uint64_t private_data; // where the page's own memory can still be seen (shared memory), 0: it has none
  uint64_t address;
};

class FrameStore {
 public:
  FrameStore(); // throws Failure
  ~FrameStore();
  FrameStore(const FrameStore&) = delete;

  int fd() const { return fd_; }
  static uint64_t file_offset(Frame frame) { return uint64_t{frame} * kPage; }
  const std::byte* content(Frame frame) const { return alias_.as<const std::byte>() + file_offset(frame); }
  // Forgets where the alias saw frames, so that it does not count as one more user of them.
  void unmap_alias() const;

  // -- mappings: Python threads --
  // Takes `source.alias` over. 0 if the table is full. The caller is a user of it until `release`.
  MappingKey add(const SourceMapping& source);
  void release(MappingKey key);
  SourceMapping mapping(MappingKey key);

  // -- pages: caller holds the page's block lock --
  // Makes page `index` of the mapping an owner of a frame with this content, `preferred` if that one has it;
  // a new frame if need be. 0: no memory.
  Frame claim(PageNumber page, MappingKey key, uint64_t index, uint64_t hash, const std::byte* content,
              Frame preferred);
  // The page is no owner any more.
  void leave(PageNumber page);
  Frame frame_of(PageNumber page) const { return entry(page).frame; }
  MappingKey mapping_of(PageNumber page) const { return entry(page).mapping; }

  Owner owner_of(PageNumber page) {
    std::lock_guard guard(lock_);
    return owner(uint32_t(page + 1));
  }

  // Calls visit(Owner) for every entry of the frame's record. `visit` takes no lock and allocates nothing.
  template <class Visit> void each(Frame frame, Visit visit) {
    std::lock_guard guard(lock_);
    for (uint32_t at = frames()[frame].first; at; at = entries()[at].next) visit(owner(at));
  }
  bool has(uint64_t hash);

  struct Totals {
    uint64_t frames = 0, sets = 0, pages = 0; // frames in use; those with several owners; merged pages
  };
  Totals totals();

 private:
  struct FrameInfo {
    uint64_t hash;
    uint32_t first; // entry; 0: free
    uint32_t owners;
    Frame next; // with the same bucket, or in the free list
  };
  struct Entry { // number: PageNumber + 1
    uint32_t next, previous;
    Frame frame;
    MappingKey mapping;
    uint64_t index;
  };
  static constexpr uint64_t kMostFrames = uint64_t{1} << 24; // 64 GiB
  static constexpr uint64_t kBuckets = uint64_t{1} << 20;
  static constexpr uint64_t kMostPages = uint64_t{1} << 27; // of the directory
  static constexpr uint32_t kMostMappings = 1u << 16;

  FrameInfo* frames() const { return frames_.as<FrameInfo>(); }
  Entry* entries() const { return entries_.as<Entry>(); }
  const Entry& entry(PageNumber page) const { return entries()[page + 1]; }
  SourceMapping* mappings() const { return mappings_.as<SourceMapping>(); }
  Frame& bucket(uint64_t hash) const { return buckets_.as<Frame>()[hash % kBuckets]; }
  // Caller must hold lock_ for all of these.
  bool matches(Frame frame, uint64_t hash, const std::byte* content) const;
  Frame find(uint64_t hash, const std::byte* content, Frame preferred) const;
  Frame make(uint64_t hash, const std::byte* content);
  void free(Frame frame);
  void drop_user(MappingKey key);
  Owner owner(uint32_t at) const;

  Lock lock_;
  int fd_ = -1;
  Mapping alias_; // the whole file, for reading
  Mapping frames_, buckets_, entries_, mappings_;
  Frame fresh_ = 1, free_ = 0;
  Totals totals_;
};

// A filter only: equal pages have equal hashes.
uint64_t hash_page(const std::byte* page);
bool is_zero_page(const std::byte* page);

} // namespace hmm
