// Pages between a GPU and the CPU: only what changed crosses the link. A page is 4 KiB, 256 words of 16 bytes; one
// block of 256 threads moves one page at a time, so that every access of a warp is one run of 512 bytes.
// Access pattern: whole pages, chosen by a table; each byte once.
//
// All addresses are multiples of a page, and every page that a table names is mapped. The pages of one table are
// different from each other; sources and targets do not overlap.

constexpr unsigned long long kPage = 4096;
constexpr int kWords = kPage / sizeof(uint4);

__device__ inline const uint4* page_at(const void* base, unsigned long long page) {
  return reinterpret_cast<const uint4*>(static_cast<const char*>(base) + page * kPage);
}
__device__ inline uint4* page_at(void* base, unsigned long long page) {
  return reinterpret_cast<uint4*>(static_cast<char*>(base) + page * kPage);
}

// buffer[i] = memory[pages[i]], by pages: what lies apart, side by side, for one copy over the link.
extern "C" __global__ void gather_pages(const void* memory, const unsigned long long* pages, int count, void* buffer) {
  for (int i = blockIdx.x; i < count; i += gridDim.x)
    for (int word = threadIdx.x; word < kWords; word += blockDim.x)
      page_at(buffer, i)[word] = page_at(memory, pages[i])[word];
}

// memory[pages[i]] = buffer[i], by pages: the way back.
extern "C" __global__ void scatter_pages(void* memory, const unsigned long long* pages, int count, const void* buffer) {
  for (int i = blockIdx.x; i < count; i += gridDim.x)
    for (int word = threadIdx.x; word < kWords; word += blockDim.x)
      page_at(memory, pages[i])[word] = page_at(buffer, i)[word];
}

// Sets bit i % 32 of changed[i / 32] if page i of `now` is not, byte for byte, what it is in `before`; the other bits
// stay. `changed` holds at least count bits and was cleared by the caller.
extern "C" __global__ void find_changed_pages(const void* now, const void* before, int count, unsigned* changed) {
  for (int i = blockIdx.x; i < count; i += gridDim.x) {
    bool differs = false;
    for (int word = threadIdx.x; word < kWords; word += blockDim.x) {
      const uint4 a = page_at(now, i)[word], b = page_at(before, i)[word];
      differs |= a.x != b.x || a.y != b.y || a.z != b.z || a.w != b.w;
    }
    if (__syncthreads_or(differs) && threadIdx.x == 0) atomicOr(&changed[i / 32], 1u << (i % 32));
  }
}
