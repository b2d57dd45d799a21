#include "memory/frame_store.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace hmm {

// The tables are address space, and cost memory where they are touched.
FrameStore::FrameStore()
    : alias_(kMostFrames * kPage, true), frames_(kMostFrames * sizeof(FrameInfo), true),
      buckets_(kBuckets * sizeof(Frame), true), entries_((kMostPages + 1) * sizeof(Entry), true),
      mappings_(kMostMappings * sizeof(SourceMapping), true) {
  fd_ = memfd_create("hmmemu-frames", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd_ < 0) throw_errno(FailureKind::OutOfMemory, "cannot create a file for merged pages");
  if (ftruncate(fd_, kMostFrames * kPage) || fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) ||
      mmap(alias_.as<void>(), alias_.bytes(), PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd_, 0) ==
          MAP_FAILED) {
    const int error = errno;
    close(fd_);
    errno = error;
    throw_errno(FailureKind::OutOfMemory, "cannot map a file for merged pages");
  }
  madvise(alias_.as<void>(), alias_.bytes(), MADV_DONTFORK);
}

FrameStore::~FrameStore() { close(fd_); }

void FrameStore::unmap_alias() const { madvise(alias_.as<void>(), alias_.bytes(), MADV_DONTNEED); }

// -------------------------------------------------------------------------------------------------- mappings

MappingKey FrameStore::add(const SourceMapping& source) {
  std::lock_guard guard(lock_);
  for (MappingKey key = 1; key < kMostMappings; ++key) {
    if (mappings()[key].users) continue;
    mappings()[key] = source;
    mappings()[key].users = 1;
    return key;
  }
  return 0;
}

void FrameStore::release(MappingKey key) {
  std::lock_guard guard(lock_);
  drop_user(key);
}

void FrameStore::drop_user(MappingKey key) {
  SourceMapping& source = mappings()[key];
  if (--source.users) return;
  if (source.shared()) munmap(reinterpret_cast<void*>(source.alias), source.pages.bytes());
  source = {};
}

SourceMapping FrameStore::mapping(MappingKey key) {
  std::lock_guard guard(lock_);
  return mappings()[key];
}

// ---------------------------------------------------------------------------------------------------- frames

bool FrameStore::matches(Frame frame, uint64_t hash, const std::byte* page) const {
  const FrameInfo& info = frames()[frame];
  return info.owners && info.hash == hash && std::memcmp(content(frame), page, kPage) == 0;
}

Frame FrameStore::find(uint64_t hash, const std::byte* page, Frame preferred) const {
  if (preferred && preferred < fresh_ && matches(preferred, hash, page)) return preferred;
  for (Frame frame = bucket(hash); frame; frame = frames()[frame].next)
    if (matches(frame, hash, page)) return frame;
  return 0;
}

bool FrameStore::has(uint64_t hash) {
  std::lock_guard guard(lock_);
  for (Frame frame = bucket(hash); frame; frame = frames()[frame].next)
    if (frames()[frame].hash == hash) return true;
  return false;
}

// New frames come in order, so that pages that follow each other get frames that do: one mapping for all.
Frame FrameStore::make(uint64_t hash, const std::byte* page) {
  const Frame frame = fresh_ < kMostFrames ? fresh_ : free_;
  if (!frame) return 0;
  if (pwrite(fd_, page, kPage, file_offset(frame)) != ssize_t(kPage)) return 0;
  if (frame == fresh_)
    ++fresh_;
  else
    free_ = frames()[frame].next;
  frames()[frame] = {hash, 0, 0, bucket(hash)};
  bucket(hash) = frame;
  ++totals_.frames;
  return frame;
}

void FrameStore::free(Frame frame) {
  FrameInfo& info = frames()[frame];
  Frame* link = &bucket(info.hash);
  while (*link != frame) link = &frames()[*link].next;
  *link = info.next;
  info.next = free_;
  free_ = frame;
  --totals_.frames;
  fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, file_offset(frame), kPage);
}

// ---------------------------------------------------------------------------------------------------- record

Frame FrameStore::claim(PageNumber page, MappingKey key, uint64_t index, uint64_t hash,
                        const std::byte* content, Frame preferred) {
  std::lock_guard guard(lock_);
  Frame frame = find(hash, content, preferred);
  if (!frame) frame = make(hash, content);
  if (!frame) return 0;
  const auto at = uint32_t(page + 1);
  FrameInfo& info = frames()[frame];
  entries()[at] = {info.first, 0, frame, key, index};
  if (info.first) entries()[info.first].previous = at;
  info.first = at;
  totals_.sets += ++info.owners == 2;
  ++totals_.pages;
  ++mappings()[key].users;
  return frame;
}

void FrameStore::leave(PageNumber page) {
  std::lock_guard guard(lock_);
  const auto at = uint32_t(page + 1);
  const Entry gone = entries()[at];
  FrameInfo& info = frames()[gone.frame];
  (gone.previous ? entries()[gone.previous].next : info.first) = gone.next;
  if (gone.next) entries()[gone.next].previous = gone.previous;
  entries()[at] = {};
  totals_.sets -= --info.owners == 1;
  --totals_.pages;
  if (!info.owners) free(gone.frame);
  drop_user(gone.mapping);
}

Owner FrameStore::owner(uint32_t at) const {
  const Entry& entry = entries()[at];
  const SourceMapping& source = mappings()[entry.mapping];
  const uint64_t distance = entry.index * kPage;
  return {entry.mapping, source.offset + distance, source.alias ? source.alias + distance : 0,
          source.pages.begin + distance};
}

FrameStore::Totals FrameStore::totals() {
  std::lock_guard guard(lock_);
  return totals_;
}

// ---------------------------------------------------------------------------------------------------- pages

// Four lanes, so that the multiplications overlap; the constants are odd and have no pattern.
uint64_t hash_page(const std::byte* page) {
  constexpr unsigned kLanes = 4;
  constexpr uint64_t kFactor = 0x9e3779b97f4a7c15; // 2^64 / golden ratio
  uint64_t lanes[kLanes] = {1, 2, 3, 4};
  for (uint64_t at = 0; at < kPage; at += kLanes * sizeof(uint64_t)) {
    uint64_t words[kLanes];
    std::memcpy(words, page + at, sizeof words);
    for (unsigned i = 0; i < kLanes; ++i) {
      lanes[i] = (lanes[i] ^ words[i]) * kFactor;
      lanes[i] ^= lanes[i] >> 29;
    }
  }
  uint64_t hash = 0;
  for (uint64_t lane : lanes) {
    hash = (hash ^ lane) * kFactor;
    hash ^= hash >> 32;
  }
  return hash;
}

bool is_zero_page(const std::byte* page) {
  return page[0] == std::byte{0} && std::memcmp(page, page + 1, kPage - 1) == 0;
}

} // namespace hmm
