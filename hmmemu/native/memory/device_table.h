// The page table of an emulated device: another process, changed through its userfaultfd, with its frames in
// a file
// ("VRAM") of which this process has an alias mapping.
//
// The frame of the page at address A lies at offset A of the file. A frame may exist without being mapped in
// the device: a large zap asks the device to drop its mappings and keeps the frames for the next move (as a
// GPU keeps its memory), a small one punches a hole, which needs no help from the device. One bit a page
// tells which frames exist; it is guarded by the block's lock.
#pragma once
#include "memory/frame_map.h"
#include "memory/page_table.h"
#include "os/userfaultfd.h"

namespace hmm {

class DeviceTable final : public PageTable {
 public:
  // Asks the device process to drop its mappings of the pages. False if it did not (it is gone).
  using Shootdown = bool (*)(void* context, Pages pages);

  // `vram` and `uffd` stay the caller's. `vram` must be a sparse file of 1 << kAddressBits bytes.
  DeviceTable(int vram, int uffd, Shootdown shootdown, void* context);
  ~DeviceTable() override;

  // A new process took the place of one that ended; nothing is mapped in it.
  void replace_process(int uffd, void* context);
  Userfaultfd& userfaultfd() { return uffd_; }

  int protect(Block&, Pages pages) override { return uffd_.protect(pages); }
  int unprotect(Block&, Pages pages) override { return uffd_.unprotect(pages); }
  int zap(Block& block, Pages pages) override;
  int release(Block& block, Pages pages) override;
  const std::byte* take(Block& block, Pages pages, bool writable, Staging& staging) override;
  const std::byte* frames(Block& block, Pages pages, Staging&) override { return alias(block, pages); }
  int install(Block& block, Pages pages, const std::byte* content, bool writable) override;
  int zero(Block& block, Pages pages, Access access, bool writable) override;
  int update(Block& block, Pages pages, const std::byte* content) override;
  int wake(Pages pages) override { return uffd_.wake(pages); }
  int refuse(Pages pages) override { return uffd_.poison(pages); }

  uint64_t frame_bytes() const { return frames_.frames() * kPage; }

 private:
  std::byte* alias(Block& block, Pages pages);
  bool zap_keeping_frames(Pages pages);
  int punch(Block& block, Pages pages);

  int vram_;
  Userfaultfd uffd_;
  Shootdown shootdown_;
  void* context_;
  const uint64_t keep_bytes_; // frames are kept over a zap while there are fewer bytes of them
  Mapping alias_;             // kMostBlocks slots of kBlock; a slot is mapped when first used
  Mapping alias_made_;        // one byte a slot
  FrameMap frames_;
};

} // namespace hmm
