// One Jacobi sweep for the Poisson equation on a square grid: each inner point becomes the mean of
// its four neighbours plus the source. Access pattern: a stencil of five points that reads one
// array and writes another; between launches the CPU does a sweep on the same two arrays, so every
// page changes hands every time.

extern "C" __global__ void sweep(const double* from, const double* source, double* to, int n) {
  int x = blockIdx.x * blockDim.x + threadIdx.x;
  int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x < 1 || y < 1 || x >= n - 1 || y >= n - 1)
    return;
  int i = y * n + x;
  // The only product comes last, so nothing can be fused and the result is the same to the bit
  // everywhere.
  to[i] = (((from[i - n] + from[i + n]) + (from[i - 1] + from[i + 1])) + source[i]) * 0.25;
}
