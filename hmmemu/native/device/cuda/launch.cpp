// Purpose: worker 0, the only one: launches kernels on the GPU in the order of the queue, each when its pages
// are there, and waits for its end.
#include "device/process/dispatcher.h"
#include "device/process/failure.h"
#include "device/process/pool.h"
#include "device/process/workers.h"
#include "gpu_memory.h"
#include "kernels.h"
#include "output.h"
#include "residency.h"
#include "variables.h"

#include <cstring>
#include <string>
#include <sys/syscall.h>
#include <unistd.h>

namespace hmmemu::device {
namespace {

Worker worker;
std::atomic<bool> running{false};
cuda::Stream* stream = nullptr;

void* worker_main(void*) {
  hmmemu_worker_self = &worker.abi;
  try {
    cuda::gpu().enter_context();
    cuda::libcuda().stream_create("make the stream of kernels", &stream, 1); // CU_STREAM_NON_BLOCKING
  } catch (const cuda::CudaError& error) {
    fail_device(error.what());
  }
  channel->faults[0].tid = int32_t(syscall(SYS_gettid));
  channel->workers[0] = {int32_t(syscall(SYS_gettid)), worker.cpu};
  pin_to_cpu(worker.cpu);
  running = true;
  run_queue(worker);
}

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

} // namespace

// One, whatever the count: it launches and waits. On the last CPU, as the emulated device's worker 0.
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

void run_launch(Worker& w, const hmm_kernel* kernel, const hmm_launch& launch, uint64_t ticket) {
  const Slot& slot = channel->queue.slots[(ticket - 1) % kSlots];
  cuda::bring_pages(slot, ticket, *kernel, launch);
  const auto& found = *reinterpret_cast<const cuda::CudaKernel*>(kernel);
  const std::string what = std::string("kernel ") + kernel->name;
  size_t bytes = slot.param_bytes;
  alignas(64) unsigned char room[kParamBytes];
  const void* const params = translate(found, launch.params, bytes, room);
  // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
  void* extra[] = {reinterpret_cast<void*>(1), const_cast<void*>(params), reinterpret_cast<void*>(2), &bytes,
                   nullptr};
  try {
    if (found.variables) found.variables->before_kernel(stream);
    cuda::libcuda().launch("launch " + what, found.function, launch.grid.x, launch.grid.y, launch.grid.z,
                           launch.block.x, launch.block.y, launch.block.z, launch.dynamic_shared, stream,
                           nullptr, extra);
    if (found.variables) found.variables->after_kernel(stream);
    cuda::libcuda().stream_wait("run " + what, stream);
  } catch (const cuda::CudaError& error) {
    cuda::deliver_printf(&w.abi);
    fail_on_gpu(ticket, *kernel, launch, error.result,
                (error.what() + ("\n" + cuda::deliver_errors())).c_str());
  }
  cuda::deliver_printf(&w.abi);
  cuda::deliver_errors();
}

} // namespace hmmemu::device
