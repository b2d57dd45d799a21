// Padding in place: every row of a matrix gets `more` zeros at its end, so all rows but the first move. Each block takes the
// next chunk, from the end of the matrix on, from a counter that CPU threads use too; it reads the chunk, waits until all
// behind it is read, and writes. flags[i] is 1 when chunk i - 1 and all before it are read.
// Access pattern: one stream read and written in place, backwards; flags passed on between CPU and device.
#define BLOCK 256
#define ITEMS 4

extern "C" __global__ void pad(unsigned* counter, int share, double* x, int n, int columns, int more, unsigned* flags) {
  __shared__ unsigned chunk;
  int t = threadIdx.x;
  for (int done = blockIdx.x; done < share; done += gridDim.x) {
    if (t == 0)
      chunk = atomicAdd_system(counter, 1u);
    __syncthreads();
    double mine[ITEMS];
    int end = n - chunk * BLOCK * ITEMS, first = max(0, end - BLOCK * ITEMS), kept = 0;
    for (int i = first + t; i < end; i += BLOCK)
      mine[kept++] = x[i];
    __syncthreads();
    if (t == 0) {
      volatile unsigned* flag = flags + chunk;
      while (*flag == 0) {
      }
      __threadfence_system();
      atomicExch_system(&flags[chunk + 1], 1u);
    }
    __syncthreads();
    for (int k = 0; k < kept; ++k) {
      int i = first + t + k * BLOCK, row = i / columns, to = i + row * more;
      x[to] = mine[k];
      if (i - row * columns == columns - 1)
        for (int j = 1; j <= more; ++j)
          x[to + j] = 0;
    }
  }
}
