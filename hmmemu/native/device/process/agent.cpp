// Purpose: answer the control socket: map, unmap, frames, load, unload, ping, hold, release, share. One
// request at a time. A long load (its constructors write shared memory, which faults to the driver) holds up
// later requests only.
#include "agent.h"
#include "device.h"
#include "device/packets.h"
#include "failure.h"
#include "modules.h"
#include "video_memory.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

namespace hmmemu::device {
namespace {

bool send_text(int socket, const std::string& text) {
  for (size_t at = 0; at < text.size(); at += kTextPacket) {
    const size_t bytes = std::min<size_t>(kTextPacket, text.size() - at);
    if (!send_packet(socket, text.data() + at, bytes)) return false;
  }
  return true;
}

LoadResult map_range(const Request& request) {
  const int error = map_video(request.address, request.length);
  if (error == 0) return {kStatusOk, 0, ""};
  if (error == EEXIST) return {kStatusTaken, 0, "the device process uses that address itself"};
  return {kStatusFailed, uint64_t(error), strerror(error)};
}

LoadResult unmap_range(const Request& request) {
  const int error = unmap_video(request.address, request.length);
  if (error == 0) return {kStatusOk, 0, ""};
  return {kStatusFailed, uint64_t(error), strerror(error)};
}

LoadResult know_range(const Request& request, int fd) {
  const bool lost = request.writes && fd < 0; // on its way: this process may open no more
  const int error = lost ? EMFILE : share_frames(fd, request.address, request.length, request.offset);
  if (error == 0) return {kStatusOk, 0, ""};
  return {kStatusFailed, uint64_t(error), strerror(error)};
}

LoadResult hold_range(const Request& request) {
  uint64_t missing = 0;
  std::string why;
  const int error = hold_video(request.address, request.length, request.writes != 0, missing, why);
  if (error == 0) return {kStatusOk, 0, ""};
  if (error == EAGAIN) return {kStatusMissing, missing, ""};
  return {kStatusFailed, uint64_t(error), why.empty() ? strerror(error) : why};
}

LoadResult release_range(const Request& request) {
  const int error = release_video(request.address, request.length);
  if (error == 0) return {kStatusOk, 0, ""};
  return {kStatusFailed, uint64_t(error), strerror(error)};
}

LoadResult share_block(const Request& request) {
  std::string why;
  const int descriptor = share_video(request.address, why);
  if (descriptor >= 0) return {kStatusOk, 0, "", descriptor};
  return {kStatusFailed, uint64_t(-descriptor), why.empty() ? strerror(-descriptor) : why};
}

// `fd`: what came with the request, -1 if nothing did.
LoadResult answer(const Request& request, int fd) {
  switch (request.kind) {
  case kRequestPing:
    return {kStatusOk, 0, ""};
  case kRequestMap:
    return map_range(request);
  case kRequestUnmap:
    return unmap_range(request);
  case kRequestFrames:
    return know_range(request, fd);
  case kRequestLoad:
    return load_module(std::string(request.text, request.text_bytes), request.address, request.length,
                       request.initialise != 0);
  case kRequestUnload:
    return unload_module(request.address);
  case kRequestHold:
    return hold_range(request);
  case kRequestRelease:
    return release_range(request);
  case kRequestShare:
    return share_block(request);
  }
  return {kStatusFailed, 0, "unknown request"};
}

// False at the end of the conversation. `fd`: what came along, or -1.
bool receive(int socket, Request& request, int& fd) {
  const ssize_t got = receive_packet(socket, &request, sizeof request, fd);
  constexpr size_t kHead = offsetof(Request, text);
  return got >= ssize_t(kHead) && request.text_bytes <= size_t(got) - kHead;
}

} // namespace

bool greet(const Agent& agent, const char* error) {
  Reply reply{0, kStatusOk, 0, agent.userfault.user_mode_only, agent.userfault.features};
  std::string text;
  if (error) {
    text = error;
    reply.status = !agent.userfault.error.empty() ? kStatusUnsupported : kStatusFailed;
    reply.text_bytes = uint32_t(text.size());
  }
  const int descriptor = error ? -1 : agent.userfault.fd;
  return send_packet(agent.control, &reply, sizeof reply, descriptor) && send_text(agent.control, text);
}

void* answer_requests(void* argument) {
  const Agent& agent = *static_cast<const Agent*>(argument);
  unsigned char* const stack = reserve_memory(kThreadStack, kPage);
  if (stack) use_alternate_stack(stack + kPage, kThreadStack - kPage);
  static Request request;
  for (int fd; receive(agent.control, request, fd);) {
    const LoadResult result = answer(request, fd);
    const Reply reply{request.id, result.status, uint32_t(result.text.size()), 0, result.value};
    const bool sent = send_packet(agent.control, &reply, sizeof reply, result.descriptor);
    if (result.descriptor >= 0) close(result.descriptor);
    if (!sent || !send_text(agent.control, result.text)) break;
  }
  _exit(0);
}

} // namespace hmmemu::device
