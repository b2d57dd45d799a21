// The CPU process's end of a device's control socket: one request at a time, each with a time
// limit.
#pragma once
#include "device/protocol.h"
#include "owned_fd.h"
#include <string>

namespace hmmemu::device {

struct Answer {
  Status status;
  uint64_t value;
  std::string text;
  OwnedFd descriptor; // that came along
};

struct Greeting {
  Answer answer; // `value`: the userfaultfd's features
  OwnedFd userfaultfd;
  bool user_mode_only;
};

// Not thread-safe: DeviceProcess::control_lock_ guards it.
class Control {
 public:
  // A new conversation over `socket`; `pidfd` belongs to the process at its other end.
  void open(OwnedFd socket, int pidfd);
  void close() { socket_.reset(); }

  // Both throw hmm::Failure(Device) if the process has ended or does not answer in time.
  Greeting greeting(uint64_t limit_ns);
  // `fd` goes along, if there is one.
  Answer ask(Request& request, uint64_t limit_ns, int fd = -1);

 private:
  // Waits until a packet is there, and reads it.
  size_t receive(void* data, size_t room, uint64_t deadline, OwnedFd* passed = nullptr);
  std::string receive_text(size_t bytes, uint64_t deadline);

  OwnedFd socket_;
  int pidfd_ = -1;
  uint32_t next_id_ = 1;
};

} // namespace hmmemu::device
