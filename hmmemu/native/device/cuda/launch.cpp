// Purpose: worker 0, the only one: launches kernels on the GPU in the order of the queue, each when its pages
// are there. How they end: in_flight.h.
#include "device/process/failure.h"
#include "device/process/modules.h"
#include "device/process/tickets.h"
#include "device/process/workers.h"
#include "gpu_memory.h"
#include "in_flight.h"
#include "kernels.h"
#include "output.h"
#include "page_kernels.h"
#include "residency.h"
#include "variables.h"

#include <cstring>
#include <optional>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmmemu::device {
namespace {

Worker worker;
std::atomic<bool> running{false};
cuda::Stream* stream = nullptr;

// The parameters as the GPU is to have them: pointers to memory that it shares with the CPU say where the GPU
// has that. `room` is used if anything differs.
const void* translate(const cuda::CudaKernel& kernel, const void* params, size_t bytes,
                      unsigned char (&room)[kParamBytes]) {
  if (channel->distance == 0) return params;
  memcpy(room, params, bytes);
  for (const uint32_t offset : kernel.pointers) {
    uint64_t pointer = 0;
    memcpy(&pointer, room + offset, sizeof pointer);
    pointer = cuda::gpu().translated(pointer);
    memcpy(room + offset, &pointer, sizeof pointer);
  }
  return room;
}

void launch_kernel(const cuda::CudaKernel& found, const Slot& slot, const hmm_launch& launch) {
  size_t bytes = slot.param_bytes;
  alignas(64) unsigned char room[kParamBytes];
  const void* const params = translate(found, launch.params, bytes, room);
  // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
  void* extra[] = {reinterpret_cast<void*>(1), const_cast<void*>(params), reinterpret_cast<void*>(2), &bytes,
                   nullptr};
  if (found.variables) found.variables->before_kernel(stream);
  cuda::gpu().with_room([&] {
    cuda::libcuda().launch(std::string("launch kernel ") + found.abi.name, found.function, launch.grid.x,
                           launch.grid.y, launch.grid.z, launch.block.x, launch.block.y, launch.block.z,
                           launch.dynamic_shared, stream, nullptr, extra);
  });
  if (found.variables) found.variables->after_kernel(stream);
}

// Whether it uses memory of the CPU's, and so may wait for the CPU.
bool shares(const Slot& slot) {
  return !each_reach(*channel, slot, [](const Reach& reach) { return reach.use != kReachShares; });
}

void run_launch(const Slot& slot, uint64_t ticket) {
  const hmm_kernel* const kernel = find_kernel(slot.kernel);
  if (const char* const reason = refuse(kernel, slot)) {
    cuda::wait_for_all();
    fail_launch(ticket, reason);
  }
  const hmm_launch launch = launch_of(slot);
  cuda::bring_pages(slot, ticket, *kernel, launch);
  const auto& found = *reinterpret_cast<const cuda::CudaKernel*>(kernel);
  std::optional<cuda::PageKernelsRest> rest;
  try {
    if (shares(slot))
      rest.emplace();
    else
      cuda::needs_nobody(ticket);
    launch_kernel(found, slot, launch);
    // Whether others may be launched behind it before it has ended: see in_flight.h.
    if (cuda::can_follow() && !found.prints && !rest) return cuda::follow(ticket);
    cuda::libcuda().stream_wait(std::string("run kernel ") + kernel->name, stream);
  } catch (const cuda::CudaError& error) {
    cuda::wait_for_all(); // it may be the failure of one of those
    cuda::fail_on_gpu(ticket, error);
  }
  cuda::deliver_printf();
  cuda::deliver_errors();
  cuda::pass(ticket);
}

[[noreturn]] void run_queue() {
  for (uint64_t ticket = channel->queue.completed.load() + 1;; ticket++) {
    wait_for_ticket(worker, ticket, cuda::report_ended);
    cuda::wait_for_room();
    const Slot& slot = slot_of_ticket(ticket);
    slot.kind == kSlotMarker ? cuda::mark(ticket) : run_launch(slot, ticket);
    cuda::report_ended();
  }
}

void* worker_main(void*) {
  hmmemu_worker_self = &worker.abi;
  try {
    cuda::gpu().enter_context();
    cuda::libcuda().stream_create("make the stream of kernels", &stream, 1); // CU_STREAM_NON_BLOCKING
    if (const char* const why = cuda::open_flight(stream)) fail_device(why);
  } catch (const cuda::CudaError& error) {
    fail_device(error.what());
  }
  channel->faults[0].tid = int32_t(syscall(SYS_gettid));
  channel->workers[0] = {int32_t(syscall(SYS_gettid)), worker.cpu};
  pin_to_cpu(worker.cpu);
  running = true;
  run_queue();
}

} // namespace

// One, whatever the count: it launches. On the last CPU, as the emulated device's worker 0.
const char* start_workers(uint32_t) {
  if (const char* const why = cuda::capture_output()) return why;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed)) worker.cpu = cpu;
  if (!start_thread("launch", kThreadStack, worker_main, nullptr))
    return "cannot start the thread that launches kernels";
  while (!running.load()) usleep(100);
  channel->worker_count = 1;
  channel->block_threads = 1;
  return nullptr;
}

} // namespace hmmemu::device
