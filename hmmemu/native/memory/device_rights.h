// How the rights in a device's page table change: the one thing in which the trackers of a device differ.
// Frames are DeviceTable's.
//
// Each call is about whole pages of one block, which the caller has locked. Calls that take rights away
// succeed if the process is gone; calls that give rights say ESRCH then, and wake who waits for the pages if
// they succeed.
#pragma once
#include "memory/device_port.h"
#include "os/userfaultfd.h"

namespace hmm {

class DeviceRights {
 public:
  // Frames and rights are one: a page whose frame is punched out is Invalid, and `copy` and `zero` make
  // frames. Otherwise frames are written through the alias, and then only rights are given or taken.
  virtual bool frames_are_rights() const = 0;

  // -> Invalid, frames stay. An errno: not done.
  virtual int take(Pages pages) = 0;
  // `object`: see DevicePort::set_rights.
  virtual int protect(Pages pages, bool object) = 0;
  virtual int unprotect(Pages pages, bool object) = 0;
  // Invalid -> Shared or Exclusive; the frames are there.
  virtual int give(Pages pages, bool writable, bool object) = 0;
  // As give; the frames hold zeros.
  virtual int give_zeros(Pages pages, bool writable, bool object) { return give(pages, writable, object); }
  virtual int copy(Pages pages, const std::byte* content, bool writable) = 0;
  virtual int zero(Pages pages) = 0;
  virtual int wake(Pages pages) = 0;
  virtual int refuse(Pages pages) = 0;

 protected:
  ~DeviceRights() = default;
};

// Tracker uffd: the device's userfaultfd, used from here. The port drops entries of large ranges.
class UserfaultRights final : public DeviceRights {
 public:
  UserfaultRights() = default;
  UserfaultRights(int uffd, DevicePort* port); // `uffd` stays the caller's

  bool frames_are_rights() const override { return true; }
  int take(Pages pages) override;
  int protect(Pages pages, bool) override { return uffd_.protect(pages); }
  int unprotect(Pages pages, bool) override { return uffd_.unprotect(pages); }
  int give(Pages pages, bool writable, bool) override { return uffd_.map_frames(pages, writable); }
  int copy(Pages pages, const std::byte* content, bool writable) override {
    return uffd_.copy(pages, content, writable);
  }
  int zero(Pages pages) override { return uffd_.zero(pages); }
  int wake(Pages pages) override { return uffd_.wake(pages); }
  int refuse(Pages pages) override;

  Userfaultfd& userfaultfd() { return uffd_; }

 private:
  Userfaultfd uffd_;
  DevicePort* port_ = nullptr;
};

// Tracker signal: the device changes its own rights when it is asked.
class SignalRights final : public DeviceRights {
 public:
  SignalRights() = default;
  explicit SignalRights(DevicePort* port) : port_(port) {}

  bool frames_are_rights() const override { return false; }
  int take(Pages pages) override { return less(pages, Rights::None, false); }
  int protect(Pages pages, bool object) override { return less(pages, Rights::Read, object); }
  int unprotect(Pages pages, bool object) override;
  int give(Pages pages, bool writable, bool object) override;
  int give_zeros(Pages pages, bool writable, bool object) override;
  int copy(Pages, const std::byte*, bool) override;
  int zero(Pages) override;
  int wake(Pages pages) override;
  int refuse(Pages pages) override;

 private:
  int less(Pages pages, Rights rights, bool object);

  DevicePort* port_ = nullptr;
};

} // namespace hmm
