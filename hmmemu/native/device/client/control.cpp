// Purpose: requests and replies on a device's control socket.
// Invariant: after a time limit has passed the late reply is still read, and dropped by its number,
// before the next one; text packets that follow a reply are counted in it, so the conversation
// never loses its place.
#include "control.h"
#include "base/failure.h"
#include "device/futex.h"
#include "device/packets.h"
#include <algorithm>
#include <cerrno>
#include <poll.h>

namespace hmmemu::device {
namespace {

constexpr const char* kEnded = "the device process has ended";
constexpr const char* kNoAnswer =
    "the device process does not answer: it may be stopped or the machine overloaded";

[[noreturn]] void fail(const std::string& text) { throw hmm::Failure(hmm::FailureKind::Device, text); }

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
  for (;;) {
    int descriptor;
    const ssize_t got = receive_packet(socket_.get(), data, room, descriptor, MSG_DONTWAIT);
    OwnedFd received = OwnedFd::above_standard(descriptor);
    if (got > 0) {
      if (passed) *passed = std::move(received);
      return size_t(got);
    }
    if (got == 0 || errno != EAGAIN) fail(kEnded);
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
  greeting.answer = {Status(reply.status), reply.value, receive_text(reply.text_bytes, deadline), {}};
  greeting.user_mode_only = reply.user_mode_only != 0;
  return greeting;
}

Answer Control::ask(Request& request, uint64_t limit_ns, int fd) {
  const uint64_t deadline = now_ns() + limit_ns;
  request.id = next_id_++;
  const size_t bytes = offsetof(Request, text) + request.text_bytes;
  if (!send_packet(socket_.get(), &request, bytes, fd, MSG_DONTWAIT))
    fail(errno == EAGAIN ? kNoAnswer : kEnded);
  for (;;) {
    Reply reply;
    OwnedFd descriptor;
    if (receive(&reply, sizeof reply, deadline, &descriptor) != sizeof reply)
      fail("the device process's answer makes no sense");
    std::string text = receive_text(reply.text_bytes, deadline);
    if (reply.id == request.id)
      return {Status(reply.status), reply.value, std::move(text), std::move(descriptor)};
  }
}

} // namespace hmmemu::device
