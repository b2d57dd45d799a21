// Histogram of a 16-bit image: every block counts into bins of its own in shared memory, then adds
// them to the result. Access pattern: the image is read once, in order; scattered atomic additions,
// first in shared memory, then to one small array that all blocks write.

extern "C" __global__ void histogram(const unsigned short* pixels, int n, unsigned int* counts,
                                     int bins, int shift) {
  extern __shared__ unsigned int local[];
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x)
    local[bin] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    atomicAdd(&local[pixels[i] >> shift], 1u);
  __syncthreads();
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x)
    if (local[bin] != 0)
      atomicAdd(&counts[bin], local[bin]);
}
