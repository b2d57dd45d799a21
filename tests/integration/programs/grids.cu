// Work on grids: convolution, stencils, images, dynamic programming in two dimensions.
#define TILE 16
#define RADIUS 3

__constant__ float filter[2 * RADIUS + 1][2 * RADIUS + 1];

// Convolution with a halo in shared memory; the border is clamped.
extern "C" __global__ void convolve(const float* in, float* out, int width, int height) {
  __shared__ float tile[TILE + 2 * RADIUS][TILE + 2 * RADIUS];
  const int x0 = blockIdx.x * TILE - RADIUS, y0 = blockIdx.y * TILE - RADIUS;
  for (int y = threadIdx.y; y < TILE + 2 * RADIUS; y += blockDim.y)
    for (int x = threadIdx.x; x < TILE + 2 * RADIUS; x += blockDim.x)
      tile[y][x] = in[min(max(y0 + y, 0), height - 1) * width + min(max(x0 + x, 0), width - 1)];
  __syncthreads();
  const int x = blockIdx.x * TILE + threadIdx.x, y = blockIdx.y * TILE + threadIdx.y;
  if (x >= width || y >= height) return;
  float sum = 0;
#pragma unroll
  for (int j = 0; j <= 2 * RADIUS; ++j)
#pragma unroll
    for (int i = 0; i <= 2 * RADIUS; ++i) sum += filter[j][i] * tile[threadIdx.y + j][threadIdx.x + i];
  out[y * width + x] = sum;
}

// Transpose through a padded tile, 32 x 8 threads.
template <typename T> __global__ void transpose(T* __restrict__ out, const T* __restrict__ in, int width, int height) {
  __shared__ T tile[32][33];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8)
    if (x < width && y + j < height) tile[threadIdx.y + j][threadIdx.x] = in[(size_t)(y + j) * width + x];
  __syncthreads();
  x = blockIdx.y * 32 + threadIdx.x, y = blockIdx.x * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8)
    if (x < height && y + j < width) out[(size_t)(y + j) * height + x] = tile[threadIdx.x][threadIdx.y + j];
}

// A 25-point stencil in three dimensions: planes in shared memory, a register queue along z.
__constant__ float along[5] = {0.5f, 0.125f, -0.0625f, 0.03125f, -0.015625f};
extern "C" __global__ void stencil_3d(const float* in, float* out, int nx, int ny, int nz) {
  __shared__ float plane[8 + 8][16 + 8];
  const int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 8 + threadIdx.y, tx = threadIdx.x + 4, ty = threadIdx.y + 4;
  const int stride = (nx + 8) * (ny + 8);
  const float* at = in + (size_t)(y + 4) * (nx + 8) + x + 4;
  float behind[4], front[4], current;
  for (int i = 3; i >= 0; --i, at += stride) behind[i] = *at;
  current = *at;
  for (int i = 0; i < 4; ++i) at += stride, front[i] = *at;
  at -= 4 * stride;
  for (int z = 0; z < nz; ++z) {
    __syncthreads();
    if (threadIdx.x < 4) plane[ty][threadIdx.x] = at[-4], plane[ty][threadIdx.x + 20] = at[16];
    if (threadIdx.y < 4) {
      plane[threadIdx.y][tx] = at[-4 * (nx + 8)];
      plane[threadIdx.y + 12][tx] = at[8 * (nx + 8)];
    }
    plane[ty][tx] = current;
    __syncthreads();
    float sum = along[0] * current;
#pragma unroll
    for (int r = 1; r <= 4; ++r)
      sum += along[r] * (front[r - 1] + behind[r - 1] + plane[ty - r][tx] + plane[ty + r][tx] + plane[ty][tx - r] + plane[ty][tx + r]);
    out[((size_t)z * ny + y) * nx + x] = sum;
    for (int i = 3; i > 0; --i) behind[i] = behind[i - 1];
    behind[0] = current, current = front[0];
    for (int i = 0; i < 3; ++i) front[i] = front[i + 1];
    at += stride;
    if (z + 1 < nz) front[3] = at[4 * stride];
  }
}

// Mandelbrot and Julia sets: float2, a loop with two ways out.
__device__ float2 operator*(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
__device__ float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ float norm2(float2 z) { return z.x * z.x + z.y * z.y; }
extern "C" __global__ void fractal(unsigned short* steps, int2 size, float2 corner, float2 step, float2 c, bool julia, int limit) {
  int px = blockIdx.x * blockDim.x + threadIdx.x, py = blockIdx.y * blockDim.y + threadIdx.y;
  if (px >= size.x || py >= size.y) return;
  float2 point = corner + make_float2(px * step.x, py * step.y);
  float2 z = julia ? point : make_float2(0.0f, 0.0f);
  if (!julia) c = point;
  int n = 0;
  while (true) {
    if (norm2(z) > 4.0f) break;
    if (n == limit) break;
    z = z * z + c;
    ++n;
  }
  steps[py * size.x + px] = n;
}

// Heat on a chip: several time steps a launch on a tile that shrinks.
struct Chip {
  float cap, rx, ry, rz, ambient;
};
extern "C" __global__ void hotspot(const float* power, const float* from, float* to, int n, int steps, Chip chip) {
  __shared__ float now[TILE][TILE], next[TILE][TILE], heat[TILE][TILE];
  const int inner = TILE - 2 * steps;
  const int x = blockIdx.x * inner + (int)threadIdx.x - steps, y = blockIdx.y * inner + (int)threadIdx.y - steps;
  const bool inside = x >= 0 && x < n && y >= 0 && y < n;
  if (inside) now[threadIdx.y][threadIdx.x] = from[y * n + x], heat[threadIdx.y][threadIdx.x] = power[y * n + x];
  __syncthreads();
  bool computed = false;
  for (int i = 0; i < steps; ++i) {
    computed = false;
    const int tx = threadIdx.x, ty = threadIdx.y;
    if (tx > i && tx < TILE - 1 - i && ty > i && ty < TILE - 1 - i && inside) {
      computed = true;
      int n_ = y > 0 ? ty - 1 : ty, s_ = y < n - 1 ? ty + 1 : ty, w_ = x > 0 ? tx - 1 : tx, e_ = x < n - 1 ? tx + 1 : tx;
      float t = now[ty][tx];
      next[ty][tx] = t + chip.cap * (heat[ty][tx] + (now[s_][tx] + now[n_][tx] - 2 * t) * chip.ry +
                                     (now[ty][e_] + now[ty][w_] - 2 * t) * chip.rx + (chip.ambient - t) * chip.rz);
    }
    __syncthreads();
    if (i == steps - 1) break;
    if (computed) now[threadIdx.y][threadIdx.x] = next[threadIdx.y][threadIdx.x];
    __syncthreads();
  }
  if (computed) to[y * n + x] = next[threadIdx.y][threadIdx.x];
}

// Speckle reduction, first half: gradients and a diffusion coefficient that is cut to [0, 1].
extern "C" __global__ void diffusion(const float* image, float* c, int rows, int columns, float q0) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * columns; i += blockDim.x * gridDim.x) {
    int row = i / columns, column = i % columns;
    float j = image[i];
    float north = image[(row ? row - 1 : 0) * columns + column] - j, south = image[(row < rows - 1 ? row + 1 : row) * columns + column] - j;
    float west = image[row * columns + (column ? column - 1 : 0)] - j, east = image[row * columns + (column < columns - 1 ? column + 1 : column)] - j;
    float g2 = (north * north + south * south + west * west + east * east) / (j * j), l = (north + south + west + east) / j;
    float numerator = 0.5f * g2 - (1.0f / 16.0f) * (l * l), denominator = 1 + 0.25f * l;
    float q = numerator / (denominator * denominator);
    float value = 1.0f / (1.0f + (q - q0) / (q0 * (1 + q0)));
    c[i] = value < 0 ? 0 : value > 1 ? 1 : value;
  }
}

// The cheapest path down a grid: rows in shared memory, __syncthreads in a loop, 256 threads.
extern "C" __global__ void path_finder(const int* wall, int* cost, int columns, int rows) {
  extern __shared__ int memory[];
  int *previous = memory, *result = memory + columns;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) previous[i] = wall[i];
  __syncthreads();
  for (int r = 1; r < rows; ++r) {
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
      int best = previous[i];
      if (i > 0) best = min(best, previous[i - 1]);
      if (i < columns - 1) best = min(best, previous[i + 1]);
      result[i] = wall[r * columns + i] + best;
    }
    __syncthreads();
    int* kept = previous;
    previous = result;
    result = kept;
  }
  for (int i = threadIdx.x; i < columns; i += blockDim.x) cost[i] = previous[i];
}

// Needleman and Wunsch: a tile's anti-diagonals, tiles launched by anti-diagonals.
extern "C" __global__ void align(const int* similarity, int* score, int n, int diagonal, int penalty) {
  __shared__ int t[TILE + 1][TILE + 1], s[TILE][TILE];
  const int tiles = n / TILE, bx = max(0, diagonal - tiles + 1) + blockIdx.x, by = diagonal - bx;
  const int tx = threadIdx.x, stride = n + 1;
  int* corner = score + by * TILE * stride + bx * TILE;
  for (int i = 0; i < TILE; ++i) s[i][tx] = similarity[(by * TILE + i) * n + bx * TILE + tx];
  if (tx == 0) t[0][0] = corner[0];
  t[0][tx + 1] = corner[tx + 1];
  t[tx + 1][0] = corner[(tx + 1) * stride];
  __syncthreads();
  for (int m = 0; m < 2 * TILE - 1; ++m) {
    int x = tx + 1, y = m - tx + 1;
    if (tx <= m && y <= TILE) t[y][x] = max(max(t[y - 1][x - 1] + s[y - 1][x - 1], t[y][x - 1] - penalty), t[y - 1][x] - penalty);
    __syncthreads();
  }
  for (int i = 0; i < TILE; ++i) corner[(i + 1) * stride + tx + 1] = t[i + 1][tx + 1];
}

// A three-dimensional grid of three-dimensional blocks: who am I?
extern "C" __global__ void positions(unsigned long long* out, dim3 size) {
  uint3 p = make_uint3(blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y, blockIdx.z * blockDim.z + threadIdx.z);
  if (p.x < size.x && p.y < size.y && p.z < size.z)
    out[(p.z * size.y + p.y) * (size_t)size.x + p.x] = ((unsigned long long)p.z << 40) + ((unsigned long long)p.y << 20) + p.x;
}
