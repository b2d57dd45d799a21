// Transposition in place of a matrix of tiles (a tile is TILE numbers in a row). The tiles of a permutation's cycle move one
// after the other: whoever carries a tile claims the place where it belongs, puts it there and carries on what was there;
// a place that is claimed already ends the walk. Each block takes the next chunk of starting places from a counter that CPU
// threads use too. Access pattern: scattered tiles read and written in place; a claim for each, by CPU or device.
#define TILE 64
#define STARTS 8

__device__ int target(int place, int rows, int columns) {
  return place % columns * rows + place / columns;
}

extern "C" __global__ void transpose(unsigned* counter, int share, double* x, int rows, int columns, unsigned* claimed) {
  __shared__ unsigned chunk, taken;
  int t = threadIdx.x;
  for (int done = blockIdx.x; done < share; done += gridDim.x) {
    if (t == 0)
      chunk = atomicAdd_system(counter, 1u);
    __syncthreads();
    int end = min((int)(chunk + 1) * STARTS, rows * columns);
    for (int start = chunk * STARTS; start < end; ++start) {
      double mine = x[start * TILE + t];
      __threadfence_system(); // what was read before the place was claimed is what was there at first
      __syncthreads();
      if (t == 0)
        taken = ((volatile unsigned*)claimed)[start];
      __syncthreads();
      for (int to = target(start, rows, columns); !taken; to = target(to, rows, columns)) {
        double next = x[to * TILE + t];
        __threadfence_system();
        __syncthreads();
        if (t == 0)
          taken = atomicExch_system(&claimed[to], 1u);
        __syncthreads();
        if (taken)
          break;
        x[to * TILE + t] = mine;
        mine = next;
      }
    }
  }
}
