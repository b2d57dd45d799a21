// Before and after a range of blocks: a worker's runtime, its fibers, the layout of its shared memory.
#pragma once

extern "C" void* hmm_os_mmap(void*, size_t, int, int, int, long) __asm__("mmap");

// One address a module: parked fibers stand in the code of the module that made them.
static const char hmm_this_module = 0;
// Changes whenever hmm_runtime's layout does.
static const uint64_t hmm_runtime_magic = 0x686d6d0000000000u + sizeof(hmm_runtime);

static __attribute__((noinline)) hmm_runtime* hmm_new_runtime(hmm_worker* w) {
  const int read_write = 3, private_anonymous = 0x22;
  const size_t align = HMM_RUNTIME_ALIGN;
  void* at = hmm_os_mmap(nullptr, sizeof(hmm_runtime) + align, read_write, private_anonymous, -1, 0);
  if (at == reinterpret_cast<void*>(-1))
    w->services->fail(w, HMM_FAIL_LIMIT, "no memory left for the state of a worker thread");
  uintptr_t aligned = (reinterpret_cast<uintptr_t>(at) + align - 1) & ~uintptr_t(align - 1);
  hmm_runtime* rt = reinterpret_cast<hmm_runtime*>(aligned);
  rt->magic = hmm_runtime_magic, rt->worker = w;
  for (unsigned i = 0; i < sizeof rt->slot / sizeof rt->slot[0]; ++i) rt->slot[i] = w->stacks;
  w->runtime = rt;
  return rt;
}

// Gives fibers [prepared, n) a stack each. Tops are staggered: equal strides would collide in the cache.
inline void hmm_prepare_fibers(hmm_runtime* rt, unsigned n) {
  if (rt->running || rt->owner != &hmm_this_module) rt->prepared = 0;
  rt->owner = &hmm_this_module;
  for (unsigned i = rt->prepared; i < n; ++i) {
    unsigned char* top = rt->worker->stacks + size_t(i + 1) * HMM_STACK_BYTES - i % 32 * 192 - 64;
    rt->slot[i] = hmm_new_fiber(
        rt, reinterpret_cast<unsigned char*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(63)));
  }
  if (n > rt->prepared) rt->prepared = n;
}

inline void hmm_fill_thread_table(hmm_runtime* rt, const hmm_dim3& b) {
  if (rt->table_dim.x == b.x && rt->table_dim.y == b.y && rt->table_dim.z == b.z) return;
  rt->table_dim = b;
  unsigned i = 0;
  for (unsigned z = 0; z < b.z; ++z)
    for (unsigned y = 0; y < b.y; ++y)
      for (unsigned x = 0; x < b.x; ++x) rt->thread_of[i++] = hmm_uint3(x, y, z);
}

static __attribute__((noinline)) void hmm_refuse(hmm_worker* w, const char* what, uint64_t have,
                                                 uint64_t limit) {
  char text[256];
  __builtin_snprintf(text, sizeof text, "the launch asks for %llu %s, and at most %llu are there",
                     static_cast<unsigned long long>(have), what, static_cast<unsigned long long>(limit));
  w->services->fail(w, HMM_FAIL_LIMIT, text);
}

// Readies the worker for blocks of a launch. `own` is the kernel's static shared memory in bytes.
inline hmm_runtime* hmm_begin(hmm_worker* w, const hmm_launch* l, uint32_t own) {
  hmm_runtime* rt = static_cast<hmm_runtime*>(w->runtime);
  if (HMM_UNLIKELY(!rt || rt->magic != hmm_runtime_magic)) rt = hmm_new_runtime(w);
  uint64_t threads = uint64_t(l->block.x) * l->block.y * l->block.z;
  if (threads == 0 || threads > HMM_MAX_THREADS) hmm_refuse(w, "threads a block", threads, HMM_MAX_THREADS);
  uint32_t device = hmm_round_up(own, 128);
  uint32_t dynamic = hmm_round_up(device + hmm_shared_use<hmm_device_functions>::bytes, 128);
  uint64_t shared = uint64_t(dynamic) + l->dynamic_shared;
  if (shared > HMM_SHARED_BYTES) hmm_refuse(w, "bytes of shared memory a block", shared, HMM_SHARED_BYTES);
  rt->device_shared = w->shared + device, rt->dynamic_shared = w->shared + dynamic;
  rt->launch = l, rt->threads = unsigned(threads);
  rt->block_dim = hmm_to_dim3(l->block), rt->grid_dim = hmm_to_dim3(l->grid);
  rt->fibers = 0, rt->spins = 0;
  w->thread_known = 0;
  return rt;
}

inline void hmm_run_fibers(hmm_worker* w, hmm_runtime* rt, const hmm_launch* l, uint64_t first, uint64_t end,
                           bool counted, void (*entry)(hmm_runtime*, void**)) {
  unsigned n = rt->threads;
  hmm_prepare_fibers(rt, n);
  hmm_fill_thread_table(rt, l->block);
  void* displaced = rt->slot[n]; // of a parked fiber, where an earlier block was larger
  rt->entry = entry, rt->fibers = 1;
  rt->precise = l->flags & HMM_LAUNCH_PRECISE, rt->slow = counted || rt->precise;
  rt->running = 1;
  hmm_block_cursor at(l->grid, first);
  for (uint64_t i = first; i < end; ++i, at.next(l->grid)) {
    rt->block = hmm_uint3(at.x, at.y, at.z);
    hmm_store(w->block, rt->block);
    hmm_fiber_block(rt);
  }
  rt->running = 0, rt->fibers = 0;
  w->thread_known = 0;
  rt->slot[n] = displaced;
}
