// Integer kernels: hashes, checksums, ciphers, bits; and a lock.

// SHA-256 of one 64-byte block a thread (already padded).
__constant__ unsigned int sha_k[64];
__device__ __forceinline__ unsigned int rotate_right(unsigned int x, int n) { return __funnelshift_r(x, x, n); }
#define CHOOSE(e, f, g) (((e) & (f)) ^ (~(e) & (g)))
#define MAJORITY(a, b, c) (((a) & (b)) ^ ((a) & (c)) ^ ((b) & (c)))
extern "C" __global__ void sha256(const unsigned int* blocks, unsigned int* digests, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned int w[64], h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, v[8];
  for (int t = 0; t < 16; ++t) w[t] = __byte_perm(blocks[16 * i + t], 0, 0x0123);
  for (int t = 16; t < 64; ++t) {
    unsigned int s0 = rotate_right(w[t - 15], 7) ^ rotate_right(w[t - 15], 18) ^ (w[t - 15] >> 3);
    unsigned int s1 = rotate_right(w[t - 2], 17) ^ rotate_right(w[t - 2], 19) ^ (w[t - 2] >> 10);
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  for (int j = 0; j < 8; ++j) v[j] = h[j];
  for (int t = 0; t < 64; ++t) {
    unsigned int s1 = rotate_right(v[4], 6) ^ rotate_right(v[4], 11) ^ rotate_right(v[4], 25);
    unsigned int first = v[7] + s1 + CHOOSE(v[4], v[5], v[6]) + sha_k[t] + w[t];
    unsigned int s0 = rotate_right(v[0], 2) ^ rotate_right(v[0], 13) ^ rotate_right(v[0], 22);
    unsigned int second = s0 + MAJORITY(v[0], v[1], v[2]);
    for (int j = 7; j > 0; --j) v[j] = v[j - 1];
    v[4] += first, v[0] = first + second;
  }
  for (int j = 0; j < 8; ++j) digests[8 * i + j] = __byte_perm(h[j] + v[j], 0, 0x0123);
}

// CRC-32 with a table that the block makes in shared memory.
extern "C" __global__ void crc32(const unsigned char* text, const int* starts, unsigned* sums, int n) {
  __shared__ unsigned table[256];
  for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) {
    unsigned c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    unsigned crc = ~0u;
    for (int at = starts[i]; at < starts[i + 1]; ++at) crc = table[(crc ^ text[at]) & 0xff] ^ (crc >> 8);
    sums[i] = ~crc;
  }
}

// MurmurHash3's finaliser, a 64 x 64 -> 128 bit product, a modular power, bit tricks.
extern "C" __global__ void mix64(const unsigned long long* in, ulonglong2* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned long long k = in[i];
  k ^= k >> 33, k *= 0xff51afd7ed558ccdULL, k ^= k >> 33, k *= 0xc4ceb9fe1a85ec53ULL, k ^= k >> 33;
  out[i] = make_ulonglong2(k, __umul64hi(in[i], k));
}
__device__ unsigned mulmod(unsigned a, unsigned b, unsigned m) { return (unsigned)((unsigned long long)a * b % m); }
extern "C" __global__ void power_mod(const unsigned* base, const unsigned* exponent, unsigned modulus, unsigned* out) {
  unsigned b = base[threadIdx.x] % modulus, e = exponent[threadIdx.x], r = 1;
  for (; e; e >>= 1, b = mulmod(b, b, modulus))
    if (e & 1) r = mulmod(r, b, modulus);
  out[threadIdx.x] = r;
}
extern "C" __global__ void bits(const unsigned* x, int4* out) {
  unsigned v = x[threadIdx.x];
  out[threadIdx.x] = make_int4(__popc(v), __clz(v), __ffs(v), (int)__brev(v));
}

// RC4: a byte state a thread in shared memory, interleaved, keys by pointer to pointer.
extern "C" __global__ void rc4(const unsigned char* const* keys, const int* lengths, unsigned char* stream, int bytes) {
  __shared__ unsigned char state[256][33];
  const int t = threadIdx.x;
  const unsigned char* key = keys[t];
  for (int i = 0; i < 256; ++i) state[i][t] = i;
  unsigned char j = 0;
  for (int i = 0; i < 256; ++i) {
    j += state[i][t] + key[i % lengths[t]];
    unsigned char kept = state[i][t];
    state[i][t] = state[j][t], state[j][t] = kept;
  }
  unsigned char a = 0, b = 0;
  for (int n = 0; n < bytes; ++n) {
    b += state[++a][t];
    unsigned char kept = state[a][t];
    state[a][t] = state[b][t], state[b][t] = kept;
    stream[t * bytes + n] = state[(unsigned char)(state[a][t] + state[b][t])][t];
  }
}

// A lock taken with atomicCAS by one thread a block; a maximum of doubles by compare and swap.
__device__ int lock = 0;
__device__ double atomic_max_double(double* to, double value) {
  unsigned long long* bits = (unsigned long long*)to;
  unsigned long long seen = *bits, assumed;
  do {
    assumed = seen;
    if (__longlong_as_double(assumed) >= value) break;
    seen = atomicCAS(bits, assumed, __double_as_longlong(value));
  } while (assumed != seen);
  return __longlong_as_double(seen);
}
extern "C" __global__ void locked(int* count, double* maximum, const double* values) {
  if (threadIdx.x == 0) {
    while (atomicCAS(&lock, 0, 1) != 0) {}
    __threadfence();
    int seen = *(volatile int*)count;
    *(volatile int*)count = seen + 1;
    __threadfence();
    atomicExch(&lock, 0);
  }
  atomic_max_double(maximum, values[blockIdx.x * blockDim.x + threadIdx.x]);
}

// The game of life on words of 32 cells, by bit-sliced addition.
extern "C" __global__ void life(const unsigned* from, unsigned* to, int words, int rows) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= words || y >= rows) return;
  unsigned s0 = 0, s1 = 0, s2 = 0, self = from[y * words + x];
  for (int dy = -1; dy <= 1; ++dy) {
    const unsigned* row = from + (y + dy + rows) % rows * words;
    unsigned middle = row[x], left = row[(x + words - 1) % words], right = row[(x + 1) % words];
    unsigned three[3] = {__funnelshift_l(left, middle, 1), dy ? middle : 0u, __funnelshift_r(middle, right, 1)};
    for (unsigned bits : three) {
      unsigned carry = s0 & bits, more = s1 & carry;
      s0 ^= bits, s1 ^= carry, s2 |= more;
    }
  }
  to[y * words + x] = ~s2 & s1 & (s0 | self);
}
