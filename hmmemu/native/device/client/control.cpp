// Purpose: requests and replies on a device's control socket.
// Invariant: after a time limit has passed the late reply is still read, and dropped by its number,
// before the next one; text packets that follow a reply are counted in it, so the conversation
// never loses its place.
#include "control.h"
#include "base/failure.h"
#include "device/futex.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>

namespace hmmemu::device {
namespace {

constexpr const char* kEnded = "the device process has ended";
constexpr const char* kNoAnswer =
    "the device process does not answer: it may be stopped or the machine overloaded";

[[noreturn]] void fail(const std::string& text) { throw hmm::Failure(hmm::FailureKind::Device, text); }

void take_descriptor(msghdr& message, OwnedFd* passed) {
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
        head->cmsg_len < CMSG_LEN(sizeof(int)))
      continue;
    int fd;
    memcpy(&fd, CMSG_DATA(head), sizeof fd);
    OwnedFd got = OwnedFd::above_standard(fd);
    if (passed) *passed = std::move(got);
  }
}

int milliseconds_until(uint64_t deadline) {
  const uint64_t now = now_ns();
  return now >= deadline ? 0 : int(std::min<uint64_t>((deadline - now) / 1000000 + 1, 1000000));
}

} // namespace

void Control::open(OwnedFd socket, int pidfd) {
  socket_ = std::move(socket);
  pidfd_ = pidfd;
}

size_t Control::receive(void* data, size_t room, uint64_t deadline, OwnedFd* passed) {
  iovec part{data, room};
  for (;;) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got > 0) {
      take_descriptor(message, passed);
      return size_t(got);
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) fail(kEnded);
    pollfd sources[2] = {{socket_.get(), POLLIN, 0}, {pidfd_, POLLIN, 0}};
    const int wait = milliseconds_until(deadline);
    if (poll(sources, 2, wait) == 0 && wait == 0) fail(kNoAnswer);
    if (sources[1].revents & POLLIN && !(sources[0].revents & POLLIN)) fail(kEnded);
  }
}

std::string Control::receive_text(size_t bytes, uint64_t deadline) {
  std::string text;
  while (text.size() < bytes) {
    char packet[kTextPacket];
    text.append(packet, receive(packet, sizeof packet, deadline));
  }
  return text;
}

Greeting Control::greeting(uint64_t limit_ns) {
  const uint64_t deadline = now_ns() + limit_ns;
  Reply reply;
  Greeting greeting;
  if (receive(&reply, sizeof reply, deadline, &greeting.userfaultfd) != sizeof reply || reply.id != 0)
    fail("the device process speaks another version of hmmemu: reinstall it");
  greeting.answer = {Status(reply.status), reply.value, receive_text(reply.text_bytes, deadline)};
  greeting.user_mode_only = reply.user_mode_only != 0;
  return greeting;
}

Answer Control::ask(Request& request, uint64_t limit_ns) {
  const uint64_t deadline = now_ns() + limit_ns;
  request.id = next_id_++;
  const size_t bytes = offsetof(Request, text) + request.text_bytes;
  if (send(socket_.get(), &request, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != ssize_t(bytes))
    fail(errno == EAGAIN ? kNoAnswer : kEnded);
  for (;;) {
    Reply reply;
    if (receive(&reply, sizeof reply, deadline) != sizeof reply)
      fail("the device process's answer makes no sense");
    std::string text = receive_text(reply.text_bytes, deadline);
    if (reply.id == request.id) return {Status(reply.status), reply.value, std::move(text)};
  }
}

} // namespace hmmemu::device
