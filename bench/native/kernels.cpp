// Purpose: what a programmer would write by hand for the CPU instead of the kernels in bench/kernels.py:
// loops in C++ with OpenMP, arrays resident, vectorised by -O3; the matrix product also blocked for
// registers, as a tuned library would.
//
// Usage: kernels. Each line on stdin is a workload, its size and how often to run it; the answer is the sum
// of the output (so that the bench can check it) and the seconds of each run. The first run is not timed: it
// brings in the pages.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <omp.h>
#include <vector>

namespace {

constexpr int64_t kMost = 1 << 24; // elements of an array

// Arrays stay from request to request, as a device's do. Values as the bench gives its kernels: i % modulus *
// scale.
struct Floats {
  float* x = static_cast<float*>(std::aligned_alloc(4096, kMost * sizeof(float)));

  float* fill(int64_t n, int modulus, float scale) {
#pragma omp parallel for
    for (int64_t i = 0; i < n; ++i) x[i] = float(i % modulus) * scale;
    return x;
  }
};

double sum_of(const float* x, int64_t n) {
  double sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

void saxpy(int64_t n, float a, const float* __restrict x, float* __restrict y) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < n; ++i) y[i] = a * x[i] + y[i];
}

void stencil(int64_t n, const float* __restrict x, float* __restrict y) {
#pragma omp parallel for simd
  for (int64_t i = 1; i < n - 1; ++i) y[i] = 0.25f * x[i - 1] + 0.5f * x[i] + 0.25f * x[i + 1];
}

void matmul(int n, const float* __restrict a, const float* __restrict b, float* __restrict c) {
#pragma omp parallel for
  for (int i = 0; i < n; ++i) {
    std::fill_n(c + int64_t(i) * n, n, 0.f);
    for (int k = 0; k < n; ++k)
      for (int j = 0; j < n; ++j) c[int64_t(i) * n + j] += a[int64_t(i) * n + k] * b[int64_t(k) * n + j];
  }
}

// Panels of kColumns columns of b, packed; kRows x kColumns sums in registers.
constexpr int kRows = 8, kColumns = 32;

void tile(int n, const float* a, const float* __restrict panel, float* __restrict c) {
  float sum[kRows][kColumns] = {};
  for (int k = 0; k < n; ++k)
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma omp simd
      for (int j = 0; j < kColumns; ++j) sum[i][j] += a[int64_t(i) * n + k] * panel[k * kColumns + j];
  for (int i = 0; i < kRows; ++i) std::memcpy(c + int64_t(i) * n, sum[i], sizeof sum[i]);
}

void matmul_tiled(int n, const float* a, const float* b, float* c) {
#pragma omp parallel
  {
    std::unique_ptr<float[]> panel(new float[int64_t(n) * kColumns]);
#pragma omp for
    for (int j = 0; j < n; j += kColumns) {
      for (int k = 0; k < n; ++k)
        std::memcpy(&panel[int64_t(k) * kColumns], b + int64_t(k) * n + j, sizeof(float) * kColumns);
      for (int i = 0; i < n; i += kRows) tile(n, a + int64_t(i) * n, panel.get(), c + int64_t(i) * n + j);
    }
  }
}

void block_sums(int64_t n, const float* __restrict x, float* __restrict sums) {
#pragma omp parallel for
  for (int64_t block = 0; block < n / 256; ++block) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < 256; ++i) sum += x[block * 256 + i];
    sums[block] = sum;
  }
}

void histogram(int64_t n, const uint8_t* data, unsigned* counts) {
  std::fill_n(counts, 256, 0u);
#pragma omp parallel
  {
    unsigned mine[4][256] = {}; // four tables, so that equal neighbours do not wait for one another
#pragma omp for
    for (int64_t i = 0; i < n / 4; ++i)
      for (int k = 0; k < 4; ++k) ++mine[k][data[4 * i + k]];
#pragma omp critical
    for (int v = 0; v < 256; ++v) counts[v] += mine[0][v] + mine[1][v] + mine[2][v] + mine[3][v];
  }
}

std::vector<double> timed(int repeats, const std::function<void()>& body) {
  body();
  std::vector<double> seconds;
  for (int r = 0; r < repeats; ++r) {
    double start = omp_get_wtime();
    body();
    seconds.push_back(omp_get_wtime() - start);
  }
  return seconds;
}

void answer(double checksum, const std::vector<double>& seconds) {
  std::printf("%.17g", checksum);
  for (double s : seconds) std::printf(" %.9g", s);
  std::printf("\n");
  std::fflush(stdout);
}

void run_histogram(int64_t n, int repeats) {
  static std::vector<uint8_t> data(kMost);
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) data[i] = uint8_t(uint64_t(i) * 2654435761u >> 16);
  unsigned counts[256];
  auto seconds = timed(repeats, [&] { histogram(n, data.data(), counts); });
  double sum = 0;
  for (int value = 0; value < 256; ++value) sum += double(value) * counts[value];
  answer(sum, seconds);
}

void run(const std::string& name, int64_t n, int repeats) {
  static Floats first, second, third;
  bool square = name == "matmul" || name == "tiled";
  int64_t count = square ? n * n : n;
  const float* x = first.fill(count, 13, 0.25f);
  float *y = second.fill(count, 7, 0.5f), *out = third.fill(count, 1, 0.f);
  std::vector<double> seconds;
  if (name == "saxpy")
    seconds = timed(repeats, [&] { saxpy(n, 0.5f, x, y); }), out = y;
  else if (name == "stencil")
    seconds = timed(repeats, [&] { stencil(n, x, out); });
  else if (name == "matmul")
    seconds = timed(repeats, [&] { matmul(int(n), x, y, out); });
  else if (name == "tiled")
    seconds = timed(repeats, [&] { matmul_tiled(int(n), x, y, out); });
  else
    seconds = timed(repeats, [&] { block_sums(n, x, out); });
  answer(sum_of(out, name == "reduce" ? n / 256 : count), seconds);
}

} // namespace

int main() {
  char name[32];
  long long n;
  int repeats;
  while (std::scanf("%31s %lld %d", name, &n, &repeats) == 3)
    if (n <= kMost && std::string(name) == "histogram")
      run_histogram(n, repeats);
    else if (n <= kMost)
      run(name, n, repeats);
    else
      return 1;
}
