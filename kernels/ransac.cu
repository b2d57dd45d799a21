// Random sample consensus: the CPU fits a line to two points per iteration and raises the iteration's flag; the
// kernel, which runs meanwhile, takes iterations from a counter, waits for the flag and counts the points
// that lie too far from the line. The best line is an atomic minimum over the whole system. Access pattern:
// the points again and again, in order; flags and lines as the CPU writes them.

struct Line {
  long long a, b, c, limit;  // the point is far where (ax + by + c)^2 > limit
};

extern "C" __global__ void count_far(const int* x, const int* y, int n, const volatile int* flags,
                                     const Line* lines, int iterations, int* taken, int* far,
                                     unsigned long long* best) {
  __shared__ int iteration, sum;
  for (;;) {
    if (threadIdx.x == 0) {
      sum = 0;
      iteration = atomicAdd_system(taken, 1);
      if (iteration < iterations)
        while (flags[iteration] == 0) {
        }
      __threadfence_system();
    }
    __syncthreads();
    if (iteration >= iterations)
      return;
    Line line = lines[iteration];
    int mine = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      long long distance = line.a * x[i] + line.b * y[i] + line.c;
      mine += distance * distance > line.limit;
    }
    atomicAdd(&sum, mine);
    __syncthreads();
    if (threadIdx.x == 0) {
      far[iteration] = sum;
      atomicMin_system(best, (unsigned long long)sum << 32 | iteration);
    }
    __syncthreads();
  }
}
