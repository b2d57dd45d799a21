// Purpose: copy pages to shadows and compare them. No locks.
#include "comparison.h"

#include "page_kernels.h"

namespace hmmemu::cuda {
namespace {

constexpr uint64_t kPage = 4096;

uint64_t block_of(uint64_t address) { return address / kGranule * kGranule; }

// One bit a page, to the lane's buffer. False: it cannot be had.
bool compare(const std::string& what, Lane& lane, Address now, Address shadow, unsigned pages) {
  const Libcuda& cuda = libcuda();
  const size_t bytes = (pages + 31) / 32 * 4;
  bool queued = false;
  try {
    cuda.fill("compare " + what, lane.gpu, 0, bytes, lane.stream);
    queued = find_changed_pages(now, shadow, int(pages), lane.gpu, lane.stream);
    if (queued) cuda.copy_out("compare " + what, lane.host, lane.gpu, bytes, lane.stream);
  } catch (const CudaError&) {
    queued = false;
  }
  return cuda.stream_wait.ask(lane.stream) == kSuccess && queued;
}

} // namespace

bool Snapshots::add(uint64_t begin, uint64_t end) {
  const uint64_t block = block_of(begin);
  if (!has_page_kernels()) return false; // there would be nothing to compare with
  const Address shadow = memory_.hold_shadow(block, true);
  if (shadow == kNowhere) return false;
  held_.push_back(block);
  try {
    if (!lane_) lane_ = memory_.lanes().take_free();
    if (!lane_) return false;
    libcuda().copy_within("copy " + memory_.what(end - begin, begin), shadow + (begin - block),
                          memory_.at(begin), end - begin, lane_->stream);
    return true;
  } catch (const CudaError&) {
    return false;
  }
}

bool Snapshots::finish() { return !lane_ || libcuda().stream_wait.ask(lane_->stream) == kSuccess; }

Snapshots::~Snapshots() {
  if (lane_) {
    finish();
    memory_.lanes().give_back(*lane_);
  }
  for (const uint64_t block : held_) memory_.let_go(block);
}

bool find_changed(GpuMemory& memory, uint64_t begin, uint64_t end, std::bitset<kPagesPerGranule>& changed) {
  const uint64_t block = block_of(begin);
  const auto pages = unsigned((end - begin) / kPage);
  const auto kernels = PageKernels::use();
  if (!kernels) return false;
  const Address shadow = memory.hold_shadow(block, false);
  if (shadow == kNowhere) return false;
  bool told = false;
  if (Lane* const lane = memory.lanes().take_free()) {
    told = lane->gpu != kNowhere &&
           compare(memory.what(end - begin, begin), *lane, memory.at(begin), shadow + (begin - block), pages);
    const auto* words = reinterpret_cast<const uint32_t*>(lane->host);
    for (unsigned i = 0; told && i < pages; i++) changed[i] = words[i / 32] >> i % 32 & 1;
    memory.lanes().give_back(*lane);
  }
  memory.let_go(block);
  return told;
}

} // namespace hmmemu::cuda
