// The page table of an emulated device: another process, whose rights change through its userfaultfd or by
// asking it (memory/device_rights.h), with its frames in a file ("VRAM") of which this process has an alias
// mapping.
//
// The frame of the page at address A lies at offset A of the file. A frame may exist without being mapped in
// the device: a zap that asks the device takes its rights and keeps the frames for the next move (as a GPU
// keeps its memory); with a userfaultfd a small one punches a hole instead, which needs no help from the
// device. One bit a page tells which frames exist; it is guarded by the page's lock.
// INVARIANT: a page without a frame bit is Invalid in the device.
//
// To a GPU (DevicePort::uses_objects) content of shared memory does not come by this file: it lies in the
// object that the pages show (PageState::in_object), which the GPU's helper has open, too, and reads and
// writes there. The frame bit says only that the GPU has memory for the page. What of the object the CPU's
// other mappings show is older than what the GPU has, until its right to write is taken.
//
// Rights to read that are to be taken while nothing runs on the device are left there, with the frames:
// nobody can use them, and mostly the pages come back, with new content and nothing else to do. Before
// anything runs
// (`start`) they are taken. One bit a page tells which were left; such a page is Invalid for everybody but
// this class.
#pragma once
#include "memory/device_rights.h"
#include "memory/file_alias.h"
#include "memory/frame_map.h"
#include "memory/page_table.h"

namespace hmm {

class DeviceTable final : public PageTable {
 public:
  // `vram` must be a sparse file of 1 << kAddressBits bytes. `uffd` is -1 if the device catches its faults
  // itself. Both stay the caller's, as do the port, which must not lie on the heap, and the CPU's tables, by
  // tracker.
  DeviceTable(int vram, int uffd, DevicePort* port, CpuTable* const* cpu);
  ~DeviceTable() override;
  DeviceTable(const DeviceTable&) = delete;

  // A new process took the place of one that ended, with the same tracker; nothing is mapped in it.
  void replace_process(int uffd, DevicePort* port);
  Userfaultfd& userfaultfd() { return userfault_.userfaultfd(); }

  int protect(Block& block, Pages pages) override { return rights_.protect(pages, in_object(block, pages)); }
  int unprotect(Block& block, Pages pages) override {
    return rights_.unprotect(pages, in_object(block, pages));
  }
  // The pages are Shared: a device that is Exclusive loses them by `take` or `release`.
  int zap(Block& block, Pages pages) override;
  int release(Block& block, Pages pages) override;
  const std::byte* take(Block& block, Pages pages, bool writable, Staging& staging) override;
  const std::byte* frames(Block& block, Pages pages, Staging&) override {
    if (port_) port_->fetch(pages);
    return view(block, pages);
  }
  // Between these two what `frames` returns may be written, and it is the pages' content then. Of a GPU it is
  // a copy, which replaces whole pages: the GPU may not write them meanwhile. `writable`: it may afterwards.
  int begin_write(Block& block, Pages pages) { return uses_objects_ && port_ ? protect(block, pages) : 0; }
  int end_write(Block& block, Pages pages, bool writable) {
    if (port_) port_->store(pages);
    return uses_objects_ && port_ && writable ? unprotect(block, pages) : 0;
  }
  int install(Block& block, Pages pages, const std::byte* content, bool writable) override;
  int zero(Block& block, Pages pages, Access access, bool writable) override;
  int update(Block& block, Pages pages, const std::byte* content) override;
  int regrant(Block& block, Pages pages, bool writable) override {
    return give(pages, writable, in_object(block, pages));
  }
  int wake(Pages pages) override { return rights_.wake(pages); }
  int refuse(Pages pages) override { return rights_.refuse(pages); }

  // The CPU's frames are used over the link, in place of this device's memory. `lend` may be called again:
  // threads of the device may have given the mapping up. ESRCH, or another errno and nothing is mapped.
  // `mark_remote`: whether the CPU uses the frames, too, at present.
  int lend(Block& block, Pages pages);
  int end_lend(Pages pages);
  void mark_remote(Pages pages, bool remote) {
    if (port_) port_->mark_remote(pages, remote);
  }
  Access atomic(pid_t thread, uint64_t address) const {
    return port_ ? port_->atomic(thread, address) : Access::Read;
  }
  int forbids(pid_t thread, uint64_t page, bool write) const {
    return port_ ? port_->forbids(thread, page, write) : 0;
  }
  void count_brought(pid_t thread, bool stays) const {
    if (port_) port_->count_brought(thread, stays);
  }

  // Something is going to be queued: from now on until `started` no rights are left. Those that there are (in
  // blocks of which any_left is true) must be taken in between.
  void start() { starting_.fetch_add(1, std::memory_order_seq_cst); }
  void started() { starting_.fetch_sub(1, std::memory_order_release); }
  // The process is given up: no rights are left until there is another one.
  void end() { ended_.store(true, std::memory_order_seq_cst); }
  // Nothing runs, and nothing is queued or about to be.
  bool idle() const { return !ended_.load() && starting_.load() == 0 && port_ && port_->idle(); }
  bool any_left() const { return left_.frames() != 0; }
  bool any_left(const Block& block) const { return left_.any(block); }
  int take_left(Block& block, Pages pages);

  // Content of PageState::in_object comes to the object.
  bool uses_objects() const { return uses_objects_; }
  // Its memory is not the file of frames, and it says ENOMEM when it has none left.
  bool has_own_memory() const { return uses_objects_; }
  uint64_t frame_bytes() const { return frames_.frames() * kPage; }
  // How many of the pages have no frame yet.
  uint64_t missing(const Block& block, Pages pages) const {
    uint64_t count = 0;
    for (uint64_t a = pages.begin; a < pages.end; a += kPage) count += !frames_.has(block, a);
    return count;
  }

 private:
  int give(Pages pages, bool writable, bool object);
  bool in_object(Block& block, Pages pages) const {
    return uses_objects_ && block.page(pages.begin).in_object();
  }
  // Where the driver sees the content, whose frames are there to be read and written. nullptr, and errno says
  // why: the object has become shorter.
  std::byte* view(Block& block, Pages pages) const;
  // The content gets there, if it is not there already. 0 or errno.
  int put(Block& block, Pages pages, const std::byte* content) const;
  std::byte* alias(Block& block, Pages pages) const { return alias_.at(vram_, block, pages); }
  // Takes the rights and keeps the frames. False: that is still to be done, by punching the frames out if
  // those are the rights.
  bool take_rights(Pages pages);
  bool keeps_frames() const { return frame_bytes() <= keep_bytes_; }
  int punch(Block& block, Pages pages);
  int revoke(Block& block, Pages pages);
  bool leave(Block& block, Pages pages);
  int install_absent(Block& block, Pages pages, const std::byte* content, bool writable);

  int vram_;
  CpuTable* const* const cpu_;
  bool uses_objects_ = false;
  DevicePort* port_ = nullptr;
  UserfaultRights userfault_; // one of these two
  SignalRights signal_;
  DeviceRights& rights_;
  const uint64_t keep_bytes_; // frames are kept over a zap while there are fewer bytes of them
  FileAlias alias_;
  FrameMap frames_, left_;
  std::atomic<unsigned> starting_{0};
  std::atomic<bool> ended_{false};
};

} // namespace hmm
