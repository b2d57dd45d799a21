// c = a + b: each thread adds one element.
// Access pattern: three streams, in order, every byte once. Nothing is reused, so the time is that
// of moving memory.

extern "C" __global__ void vector_add(const float* a, const float* b, float* c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n)
    c[i] = a[i] + b[i];
}
