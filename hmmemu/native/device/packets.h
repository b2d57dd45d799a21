// A packet on a socket (SOCK_SEQPACKET), with a descriptor or without one: between the CPU process, a
// device's process and the keeper of a GPU's memory. Nothing here allocates, and an interrupted call is made
// again.
#pragma once
#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <sys/uio.h>

namespace hmmemu::device {

// False, with errno, if it cannot be sent. `descriptor` goes along (SCM_RIGHTS) unless it is negative.
inline bool send_packet(int socket, const void* data, size_t bytes, int descriptor = -1, int flags = 0) {
  iovec part{const_cast<void*>(data), bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptor)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
  }
  ssize_t sent;
  do sent = sendmsg(socket, &message, flags | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == ssize_t(bytes); // never a part of it
}

// What recvmsg returns: 0 at the end of the conversation. `descriptor`: what came along (close on exec), the
// caller's from here on; -1 if nothing did.
inline ssize_t receive_packet(int socket, void* data, size_t room, int& descriptor, int flags = 0) {
  iovec part{data, room};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptor)];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_LEN(sizeof descriptor); // room for one; the kernel closes others
  ssize_t got;
  do got = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  descriptor = -1;
  const cmsghdr* const head = got >= 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
      head->cmsg_len == CMSG_LEN(sizeof descriptor))
    memcpy(&descriptor, CMSG_DATA(head), sizeof descriptor);
  return got;
}

} // namespace hmmemu::device
