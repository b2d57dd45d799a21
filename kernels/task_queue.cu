// Task queue that the CPU fills while the kernel drains it. A task is a part of x, as first << 32 | count; its result is a
// checksum. The queue is a ring of `size` slots. A block takes a number, waits until the CPU has published so many tasks
// (or says that there will be no more), reads the task from its slot and tells the CPU that the slot is free.
// Access pattern: a few words that CPU and device wait on, each for the other, for as long as the kernel runs.
#define PUBLISHED 0
#define CLOSED 1

extern "C" __global__ void drain(unsigned* next, const volatile unsigned* state, const volatile unsigned long long* slots,
                                 unsigned* freed, int size, const unsigned* x, unsigned* results) {
  __shared__ unsigned number, sum, more;
  __shared__ unsigned long long task;
  while (true) {
    if (threadIdx.x == 0) {
      number = atomicAdd_system(next, 1u);
      while (state[PUBLISHED] <= number && !state[CLOSED]) {
      }
      __threadfence_system();
      more = state[PUBLISHED] > number; // once more: the last tasks are published before the queue is closed
      if (more) {
        task = slots[number % size];
        __threadfence_system();
        atomicExch_system(&freed[number % size], number + 1);
      }
      sum = 0;
    }
    __syncthreads();
    if (!more)
      return;
    unsigned first = task >> 32, count = task, mine = 0;
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
      mine += x[first + i] * (i + 1);
    atomicAdd(&sum, mine);
    __syncthreads();
    if (threadIdx.x == 0)
      results[number] = sum;
  }
}
