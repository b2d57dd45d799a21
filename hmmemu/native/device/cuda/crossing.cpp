// Purpose: copy runs of pages over the link, many at a time. No locks.
#include "crossing.h"

#include "device/process/device.h"
#include "host_content.h"

namespace hmmemu::cuda {
namespace {

using device::channel;
using device::kPage;

constexpr uint64_t kLarge = 64u << 10; // bytes of a run that is copied as it is
constexpr uint64_t kPacked =
    (kGranule - Lane::kTable) / kPage; // pages of a batch: what the GPU's buffer holds
constexpr size_t kMostUnderWay = 4;

void count(std::atomic<uint64_t>& counter, uint64_t n) { counter.fetch_add(n, std::memory_order_relaxed); }

} // namespace

void Crossing::copy(const Run& run, Lane& lane) {
  const std::string what = memory_.what(run.bytes, run.address);
  if (way_ == Way::ToGpu)
    libcuda().copy_in("copy to " + what, memory_.at(run.address), run.host, run.bytes, lane.stream);
  else
    libcuda().copy_out("copy from " + what, run.host, memory_.at(run.address), run.bytes, lane.stream);
  count(way_ == Way::ToGpu ? channel->crossings.copies_to_gpu : channel->crossings.copies_home, 1);
}

// A lane for more: a free one, or that of the oldest load, when it is through.
Crossing::Load& Crossing::next_load() {
  Lane* lane = nullptr;
  if (under_way_.empty() && !packing_)
    lane = &memory_.lanes().take();
  else if (under_way_.size() < kMostUnderWay)
    lane = memory_.lanes().take_free();
  if (!lane) {
    if (under_way_.empty()) send_packed();
    unload(under_way_.front());
    lane = under_way_.front().lane;
    under_way_.pop_front();
  }
  under_way_.push_back({lane, 0, {}, nullptr});
  return under_way_.back();
}

// The run gets its place in the load's buffer, and its content, if that goes to the GPU.
void Crossing::place(Load& load, uint64_t address, uint64_t bytes) {
  load.runs.push_back({address, bytes, load.lane->host + Lane::kTable + load.pages * kPage, nullptr});
  load.pages += bytes / kPage;
  if (way_ == Way::ToGpu) host_content().read(address, bytes, load.runs.back().host);
}

// For what needs a stream and no buffer.
Crossing::Load& Crossing::some_load() { return under_way_.empty() ? next_load() : under_way_.back(); }

void Crossing::copy_block(uint64_t begin, uint64_t end) {
  std::shared_ptr<Window> window = windows().find(begin, end);
  Load& load = window ? some_load() : next_load();
  if (window) {
    load.runs.push_back({begin, end - begin, window->at(begin), std::move(window)});
    count(channel->crossings.direct_pages, (end - begin) / kPage);
  } else {
    place(load, begin, end - begin);
  }
  copy(load.runs.back(), *load.lane);
}

void Crossing::copy_large(uint64_t begin, uint64_t end) {
  for (uint64_t to; begin < end; begin = to) {
    to = std::min(end, begin / kGranule * kGranule + kGranule);
    copy_block(begin, to);
  }
}

void Crossing::pack(uint64_t begin, uint64_t end) {
  while (begin < end) {
    if (packing_ && packing_->pages == kPacked) send_packed();
    if (!packing_) {
      packing_ = std::make_unique<Load>(std::move(next_load()));
      under_way_.pop_back();
    }
    const uint64_t bytes = std::min(end - begin, (kPacked - packing_->pages) * kPage);
    place(*packing_, begin, bytes);
    begin += bytes;
  }
}

void Crossing::add(uint64_t begin, uint64_t end) {
  count(way_ == Way::ToGpu ? channel->crossings.pages_to_gpu : channel->crossings.pages_home,
        (end - begin) / kPage);
  end - begin >= kLarge ? copy_large(begin, end) : pack(begin, end);
}

// The host has zeros there, too.
void Crossing::fill_zeros(uint64_t begin, uint64_t end) {
  const Load& load = some_load();
  if (libcuda().fill.ask(memory_.at(begin), 0, end - begin, load.lane->stream) != kSuccess)
    return add(begin, end);
  count(channel->crossings.zeroed_pages, (end - begin) / kPage);
}

void Crossing::fill_table(Load& load) const {
  auto* entry = reinterpret_cast<uint64_t*>(load.lane->host);
  for (const Run& run : load.runs)
    for (uint64_t at = 0; at < run.bytes; at += kPage)
      *entry++ = uint64_t(memory_.at(run.address + at)) / kPage;
}

// One copy and one kernel. False: the kernel cannot be had.
bool Crossing::send_by_kernel(Load& load) {
  const Libcuda& cuda = libcuda();
  Lane& lane = *load.lane;
  const Address pages = lane.gpu + Lane::kTable;
  const uint64_t bytes = load.pages * kPage;
  const std::string what = std::to_string(load.pages) + " pages of " + memory_.name();
  fill_table(load);
  if (way_ == Way::ToGpu) {
    cuda.copy_in("copy to " + what, lane.gpu, lane.host, Lane::kTable + bytes, lane.stream);
    if (!scatter_pages(lane.gpu, int(load.pages), pages, lane.stream)) return false;
    count(channel->crossings.copies_to_gpu, 1);
    count(channel->crossings.scattered_pages, load.pages);
  } else {
    cuda.copy_in("name " + what, lane.gpu, lane.host, Lane::kTable, lane.stream);
    if (!gather_pages(lane.gpu, int(load.pages), pages, lane.stream)) return false;
    cuda.copy_out("copy from " + what, lane.host + Lane::kTable, pages, bytes, lane.stream);
    count(channel->crossings.copies_home, 1);
    count(channel->crossings.gathered_pages, load.pages);
  }
  return true;
}

void Crossing::send_packed() {
  under_way_.push_back(std::move(*packing_));
  packing_.reset();
  Load& load = under_way_.back();
  if (load.runs.size() > 1 && load.lane->gpu != kNowhere) load.kernels = PageKernels::use();
  if (load.kernels && send_by_kernel(load)) return;
  for (const Run& run : load.runs) copy(run, *load.lane);
}

// Waits until it is through; what came home goes to the file.
void Crossing::unload(Load& load) {
  libcuda().stream_wait("wait for copies of " + memory_.name(), load.lane->stream);
  if (way_ == Way::Home)
    for (const Run& run : load.runs)
      if (!run.window) host_content().write(run.address, run.bytes, run.host);
}

void Crossing::finish() {
  if (packing_) send_packed();
  while (!under_way_.empty()) {
    unload(under_way_.front());
    memory_.lanes().give_back(*under_way_.front().lane);
    under_way_.pop_front();
  }
}

Crossing::~Crossing() {
  if (packing_) memory_.lanes().give_back(*packing_->lane);
  for (Load& load : under_way_) {
    libcuda().stream_wait.ask(load.lane->stream);
    memory_.lanes().give_back(*load.lane);
  }
}

} // namespace hmmemu::cuda
