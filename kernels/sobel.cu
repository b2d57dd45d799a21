// Edges of a 16-bit image: the magnitude of Sobel's gradient. Pixels beyond the border repeat the
// nearest one. Access pattern: a stencil of 3 x 3, so each row of the image is read for three rows
// of the result; neighbours overlap.

__device__ int clamp_index(int i, int n) { return i < 0 ? 0 : (i < n ? i : n - 1); }

extern "C" __global__ void sobel(const unsigned short* image, float* edges, int height, int width) {
  int x = blockIdx.x * blockDim.x + threadIdx.x;
  int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height)
    return;
  int left = clamp_index(x - 1, width), right = clamp_index(x + 1, width);
  const unsigned short* above = image + clamp_index(y - 1, height) * width;
  const unsigned short* here = image + y * width;
  const unsigned short* below = image + clamp_index(y + 1, height) * width;
  int dx =
      above[right] + 2 * here[right] + below[right] - above[left] - 2 * here[left] - below[left];
  int dy = below[left] + 2 * below[x] + below[right] - above[left] - 2 * above[x] - above[right];
  // Whole numbers below 2^37: exact in double precision, so the one rounding of the root and the
  // one to float are the same on every machine.
  long long square = (long long)dx * dx + (long long)dy * dy;
  edges[y * width + x] = (float)sqrt((double)square);
}
