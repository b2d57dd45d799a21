// Histogram of a 16-bit image by CPU threads and device at the same time. Each block takes the next chunk of pixels from a
// counter that the CPU uses too, counts it in shared memory, and adds to bins that the CPU adds to. Access pattern: one
// stream read by both sides; atomics of system scope on one small array.
#define CHUNK 1024
#define BINS 256

extern "C" __global__ void count(unsigned* counter, int share, const unsigned short* pixels, int n, unsigned* counts) {
  __shared__ unsigned local[BINS];
  __shared__ int first;
  for (int done = blockIdx.x; done < share; done += gridDim.x) {
    if (threadIdx.x == 0)
      first = atomicAdd_system(counter, 1u) * CHUNK;
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x)
      local[bin] = 0;
    __syncthreads();
    int end = min(first + CHUNK, n);
    for (int i = first + threadIdx.x; i < end; i += blockDim.x)
      atomicAdd(&local[pixels[i] >> 8], 1u);
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x)
      if (local[bin] != 0)
        atomicAdd_system(&counts[bin], local[bin]);
  }
}
