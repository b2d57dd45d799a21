// How the driver reaches into the page table of a device process that has no userfaultfd, or that it asks
// for what a userfaultfd cannot do. Implemented by device/client.
//
// Called by driver threads: nothing is allocated, every wait has a limit.
#pragma once
#include "base/pages.h"
#include "protocol/state.h"
#include <sys/types.h>

namespace hmm {

enum class Rights { None, Read, Write };

class DevicePort {
 public:
  // The pages lose their page table entries, so that the next access faults; their rights and frames stay.
  // False: the device did not answer.
  virtual bool drop(Pages pages) = 0;

  // Without userfaultfd: what the device may do with the pages from now on. 0; ESRCH if its process has
  // ended; ENOMEM, EFAULT if rights cannot be given (then it has none). A device that does not answer is
  // ended. It may lose rights at any time (never gain any): a fault on a page that it should have is answered
  // by giving them again.
  // `object`: the pages' content lies in the object that they show (`uses_objects`), and not in the file of
  // frames.
  virtual int set_rights(Pages pages, Rights rights, bool object) = 0;
  // As set_rights, to more than there were; who waits for the pages tries again.
  virtual int give(Pages pages, Rights rights, bool object) = 0;
  // As give, to pages without rights, whose frames hold zeros.
  virtual int give_zeros(Pages pages, Rights rights, bool object) = 0;
  // The CPU's frames are mapped at the pages, to read and write: those of private memory (CommonFrames), or
  // of the object that the pages show. Who waits for the pages does so still. 0; ESRCH; any other errno:
  // nothing is.
  virtual int lend(Pages pages, bool object) = 0;
  // The device's own memory is there again, and it has no rights. 0, or ESRCH.
  virtual int end_lend(Pages pages) = 0;
  // Nothing that was queued for the device is still to be done.
  virtual bool idle() const = 0;
  // Threads that wait for these pages try again, or take their access for an error.
  virtual void wake(Pages pages) = 0;
  virtual void refuse(Pages pages) = 0;

  // Whether the device's process reads and writes the content of PageState::in_object where it lies.
  virtual bool uses_objects() const = 0;
  // A GPU's memory is not the file of frames (the object). fetch: the frames of pages that the device may
  // write hold what it has there. store: it has what the frames of pages that it may use hold. 0, or ESRCH:
  // it has ended.
  virtual int fetch(Pages pages) = 0;
  virtual int store(Pages pages) = 0;

  // What a thread of the device that waits for a page is about to do there: Atomic, Own, Alone, or Read if it
  // is in no atomic operation.
  virtual Access atomic(pid_t thread, uint64_t address) const = 0;
  // Whether what runs on a thread of the device may touch a page: 0; EACCES: a launch that is confined to
  // memory which it names, elsewhere; EROFS: to write what it says that it only reads.
  virtual int forbids(pid_t thread, uint64_t page, bool write) const = 0;
  // A thread of the device is about to get pages, for its fault, that somebody else had; `stays`: over the
  // link.
  virtual void count_brought(pid_t thread, bool stays) = 0;
  // Whether the CPU uses the device's memory at these pages, too: its kernels look before atomics.
  virtual void mark_remote(Pages pages, bool remote) = 0;

 protected:
  ~DevicePort() = default;
};

} // namespace hmm
