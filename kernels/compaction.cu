// Stream compaction in place: the elements that are not zero move to the front and keep their order. Each block takes the
// next chunk from a counter that CPU threads use too, reads it, waits until the chunk before it is read, and writes.
// flags[i] is one more than the number of elements kept before chunk i, 0 as long as nobody knows.
// Access pattern: one stream read and written in place; flags passed on from chunk to chunk, between CPU and device.
#define BLOCK 256
#define ITEMS 4

extern "C" __global__ void compact(unsigned* counter, int share, int* x, int n, unsigned* flags) {
  __shared__ unsigned ends[BLOCK]; // elements kept by this thread and those before it
  __shared__ unsigned chunk, before;
  unsigned t = threadIdx.x;
  for (int done = blockIdx.x; done < share; done += gridDim.x) {
    if (t == 0)
      chunk = atomicAdd_system(counter, 1u);
    __syncthreads();
    unsigned kept = 0;
    int first = (chunk * BLOCK + t) * ITEMS, mine[ITEMS];
    for (int i = first; i < first + ITEMS && i < n; ++i) {
      int value = x[i];
      if (value != 0)
        mine[kept++] = value;
    }
    ends[t] = kept;
    __syncthreads();
    for (unsigned step = 1; step < BLOCK; step *= 2) {
      unsigned others = t >= step ? ends[t - step] : 0;
      __syncthreads();
      ends[t] += others;
      __syncthreads();
    }
    if (t == 0) {
      volatile unsigned* flag = flags + chunk;
      while ((before = *flag) == 0) {
      }
      __threadfence_system();
      atomicExch_system(&flags[chunk + 1], before + ends[BLOCK - 1]);
    }
    __syncthreads();
    unsigned to = before - 1 + ends[t] - kept;
    for (unsigned i = 0; i < kept; ++i)
      x[to + i] = mine[i];
  }
}
