#include "memory/signal_table.h"

#include "os/probe.h"
#include "os/segv.h"
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace hmm {
namespace {

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 // Linux 5.18
#endif

void* at(Pages pages) { return reinterpret_cast<void*>(pages.begin); }

int right(MemoryKind kind, bool writable) {
  const int read = kind.executable ? PROT_READ | PROT_EXEC : PROT_READ;
  return writable && !kind.read_only ? read | PROT_WRITE : read;
}

// The whole of it, or an errno. The kernel stops early at a page that it cannot get.
template <class Move> int all_of(Pages pages, Move move) {
  for (uint64_t done = 0; done < pages.bytes();) {
    const ssize_t n = move(done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    done += n;
  }
  return 0;
}

int free_private_frames(Pages pages) {
  if (madvise(at(pages), pages.bytes(), MADV_DONTNEED) == 0) return 0;
  if (errno != EINVAL) return errno;
  return madvise(at(pages), pages.bytes(), MADV_DONTNEED_LOCKED) ? errno : 0; // mlock'ed memory
}

} // namespace

SignalTable::SignalTable(const Directory& directory, AliasMap& aliases)
    : directory_(directory), aliases_(aliases), memory_(::open("/proc/self/mem", O_RDWR | O_CLOEXEC)),
      most_kept_(sysconf(_SC_PHYS_PAGES) / 4) {
  if (const std::string reason = why_no_signal_tracker(); !reason.empty()) {
    if (memory_ >= 0) close(memory_);
    throw Failure(FailureKind::Unsupported, "accesses cannot be caught as signals here: " + reason);
  }
}

SignalTable::~SignalTable() { close(memory_); }

// ------------------------------------------------------------------------------------------------ ranges

int SignalTable::add(Pages pages, MemoryKind kind) {
  segv::ensure_installed(); // before any page of a signal stack can go away
  spare_.hold();
  if (kind.huge && !kind.shared && !can_write_huge_pages()) return EOPNOTSUPP;
  return kind.shared ? aliases_.add(pages) : 0;
}

// Memory of ours that nobody touched. If it is private its first page gets a frame before it is split: then
// all parts share one anon_vma, without which the kernel would never merge them again.
int SignalTable::reserve(Pages pages, MemoryKind kind) {
  if (!kind.shared) {
    *reinterpret_cast<volatile char*>(pages.begin) = 0;
    if (int error = free_private_frames({pages.begin, pages.begin + kPage})) return error;
  }
  return set(pages, PROT_NONE);
}

void SignalTable::remove(Pages pages) {
  for (uint64_t a = pages.begin; a < pages.end; a = block_down(a) + kBlock) {
    Block* block = directory_.find(a);
    if (!block) continue;
    const Pages part{a, std::min(pages.end, block->address + kBlock)};
    const MemoryKind kind = block->page(a).kind();
    kept_.set(*block, part, false);
    if (const int error = set(part, right(kind, true)); error && error != ENOENT)
      fatal("CPU pages at 0x%lx cannot be made plain memory: %s", part.begin, std::strerror(error));
  }
  aliases_.remove(pages);
}

void SignalTable::abandon(Pages pages, MemoryKind kind) { set(pages, right(kind, true)); }

// ------------------------------------------------------------------------------------------------ rights

// 0 or errno; ENOENT: the program unmapped a part.
int SignalTable::set(Pages pages, int protection) {
  if (mprotect(at(pages), pages.bytes(), protection) == 0) return 0;
  if (errno != ENOMEM) return errno;
  if (!is_mapped(pages)) return ENOENT;
  if (spare_.give_back() && mprotect(at(pages), pages.bytes(), protection) == 0) return 0;
  return ENOMEM;
}

// The kernel may have changed a part before it failed. To take that back needs no new mapping: it ends where
// mappings end now.
int SignalTable::grant(Block& block, Pages pages, bool writable, int before) {
  const int error = set(pages, right(block.page(pages.begin).kind(), writable));
  if (!error) return 0;
  if (set(pages, before) != 0 && error != ENOENT)
    fatal("rights of CPU pages at 0x%lx cannot be taken back: %s (see vm.max_map_count)", pages.begin,
          std::strerror(error));
  return error;
}

// A part that was done when it fails is more strict than it need be: the next access mends it.
int SignalTable::restrict(Pages pages, int protection) {
  segv::ensure_installed();
  return set(pages, protection);
}

int SignalTable::protect(Block& block, Pages pages) {
  return restrict(pages, right(block.page(pages.begin).kind(), false));
}

int SignalTable::unprotect(Block& block, Pages pages) {
  return grant(block, pages, true, right(block.page(pages.begin).kind(), false));
}

int SignalTable::regrant(Block& block, Pages pages, bool writable) {
  return set(pages, right(block.page(pages.begin).kind(), writable));
}

int SignalTable::zap(Block& block, Pages pages) {
  if (int error = restrict(pages, PROT_NONE)) return error == ENOENT ? 0 : error;
  if (block.page(pages.begin).shared_mapping()) return 0; // the frames are the file's
  if (kept_.frames() + pages.count() > most_kept_) return drop_frames(block, pages);
  kept_.set(block, pages, true);
  return 0;
}

int SignalTable::drop_frames(Block& block, Pages pages) {
  kept_.set(block, pages, false);
  return free_private_frames(pages);
}

// A file keeps its pages, and private huge pages may be a file's: those are filled with zeros. Other memory
// goes back to the kernel.
int SignalTable::release(Block& block, Pages pages) {
  if (int error = restrict(pages, PROT_NONE)) return error == ENOENT ? 0 : error;
  const MemoryKind kind = block.page(pages.begin).kind();
  if (kind.file || (kind.huge && !kind.shared)) return write(block, pages, zeros_.as<std::byte>());
  if (kind.shared) return madvise(alias(block, pages), pages.bytes(), MADV_REMOVE) ? errno : 0;
  return drop_frames(block, pages);
}

const std::byte* SignalTable::take(Block& block, Pages pages, bool, Staging& staging) {
  if ((errno = restrict(pages, PROT_NONE))) return nullptr;
  if (block.page(pages.begin).in_object()) return object(block, pages);
  if (!read(pages, staging)) {
    errno = ENXIO;
    return nullptr;
  }
  if (int error = zap(block, pages)) // already without rights: what is left is to keep the frames, or not
    fatal("frames of CPU page 0x%lx cannot be freed: %s", pages.begin, std::strerror(error));
  return staging.data();
}

const std::byte* SignalTable::frames(Block& block, Pages pages, Staging& staging) {
  const MemoryKind kind = block.page(pages.begin).kind();
  const bool seen_there = !kind.shared || block.page(pages.begin).merged(); // the alias shows no merged pages
  if (!kind.file) return seen_there ? static_cast<const std::byte*>(at(pages)) : object(block, pages);
  return read(pages, staging) ? staging.data() : nullptr;
}

// Where the object has become shorter a load would be a SIGBUS, so the kernel is asked first (since 5.14).
std::byte* SignalTable::object(Block& block, Pages pages) const {
  if (aliases_.readable(block, pages) || errno != EFAULT) return alias(block, pages);
  errno = ENXIO;
  return nullptr;
}

int SignalTable::install(Block& block, Pages pages, const std::byte* content, bool writable) {
  if (!is_ours(pages)) return ENOENT;
  if (int error = is_object(block, pages, content) ? 0 : write(block, pages, content))
    return is_mapped(pages) ? error : ENOENT;
  kept_.set(block, pages, false);
  return grant(block, pages, writable, PROT_NONE);
}

int SignalTable::zero(Block& block, Pages pages, Access, bool writable) {
  return grant(block, pages, writable, PROT_NONE);
}

// ----------------------------------------------------------------------------------------------- content

// Invalid pages are ours as long as they cannot be read: the program may have unmapped them without telling
// us, and the kernel given the address to somebody else.
bool SignalTable::is_ours(Pages pages) const {
  char byte;
  iovec mine{&byte, 1}, there{at(pages), 1};
  return process_vm_readv(getpid(), &mine, 1, &there, 1, 0) != 1;
}

int SignalTable::write(Block& block, Pages pages, const std::byte* content) {
  const bool shared = block.page(pages.begin).shared_mapping();
  const auto to = shared ? reinterpret_cast<uint64_t>(alias(block, pages)) : pages.begin;
  const int error = all_of(
      pages, [&](uint64_t done) { return pwrite(memory_, content + done, pages.bytes() - done, to + done); });
  if (!error || !shared || !block.page(pages.begin).read_only()) return error;
  // A file that was opened for reading: nobody writes its pages, so the content must be what is there.
  char there[1024];
  for (uint64_t done = 0; done < pages.bytes(); done += sizeof there) {
    if (pread(memory_, there, sizeof there, to + done) != sizeof there) return EIO;
    if (std::memcmp(there, content + done, sizeof there) != 0) return EACCES;
  }
  return 0;
}

bool SignalTable::read(Pages pages, Staging& staging) const {
  return all_of(pages, [&](uint64_t done) {
           return pread(memory_, staging.data() + done, pages.bytes() - done, pages.begin + done);
         }) == 0;
}

} // namespace hmm
