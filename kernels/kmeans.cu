// k-means on points with whole-number coordinates, stored one dimension after the other. Each
// thread finds the nearest centre of one point and adds the point to that centre's sums. Access
// pattern: one stream a dimension; centres in constant memory; atomics on a small table, first in
// shared memory, then to memory that the CPU reads in every round.

constexpr int MAX_CENTRES = 64;
constexpr int DIMENSIONS = 4;

__constant__ int centres[MAX_CENTRES * DIMENSIONS];

// Sums of coordinates and, last, the count of points, for each centre.
constexpr int SUMS = DIMENSIONS + 1;

__device__ int nearest(const int* point, int k) {
  int best = 0;
  long long best_distance = 0x7fffffffffffffffLL;
  for (int c = 0; c < k; ++c) {
    long long distance = 0;
    for (int d = 0; d < DIMENSIONS; ++d) {
      long long difference = point[d] - centres[c * DIMENSIONS + d];
      distance += difference * difference;
    }
    if (distance < best_distance) {
      best_distance = distance;
      best = c;
    }
  }
  return best;
}

extern "C" __global__ void assign(const int* points, int n, int k, int* labels,
                                  unsigned long long* sums) {
  __shared__ unsigned long long local[MAX_CENTRES * SUMS];
  for (int i = threadIdx.x; i < k * SUMS; i += blockDim.x)
    local[i] = 0;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    int point[DIMENSIONS];
    for (int d = 0; d < DIMENSIONS; ++d)
      point[d] = points[d * n + i];
    int label = nearest(point, k);
    labels[i] = label;
    for (int d = 0; d < DIMENSIONS; ++d)
      atomicAdd(&local[label * SUMS + d], (unsigned long long)point[d]);
    atomicAdd(&local[label * SUMS + DIMENSIONS], 1ULL);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < k * SUMS; i += blockDim.x)
    if (local[i] != 0)
      atomicAdd(&sums[i], local[i]);
}
