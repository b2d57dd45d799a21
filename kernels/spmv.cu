// y = A x for a sparse matrix in compressed rows: a thread a row.
// Access pattern: rows of unequal length, so neighbouring threads read far apart; x is read at
// random places.

extern "C" __global__ void spmv(const int* row_start, const int* columns, const float* values,
                                const float* x, float* y, int rows) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows)
    return;
  float sum = 0.0f;
  int end = row_start[row + 1];
  for (int i = row_start[row]; i < end; ++i)
    sum += values[i] * x[columns[i]];
  y[row] = sum;
}
