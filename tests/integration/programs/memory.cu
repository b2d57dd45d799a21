// Memory: pointers in memory that CPU and device follow alike, shared memory in every shape, warps that diverge.

// A linked list whose nodes the CPU built; the kernel sums it and reverses the links.
struct Node {
  Node* next;
  long long value;
};
extern "C" __global__ void reverse_list(Node** head, long long* sum) {
  Node *reversed = nullptr, *at = *head;
  while (at) {
    *sum += at->value;
    Node* next = at->next;
    at->next = reversed;
    reversed = at, at = next;
  }
  *head = reversed;
}

// A binary search tree: lookups by many threads, insertions by compare and swap.
struct Leaf {
  int key, value;
  Leaf *left, *right;
};
extern "C" __global__ void find_in_tree(const Leaf* root, const int* keys, int n, int* values) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const Leaf* at = root;
  while (at != nullptr && at->key != keys[i]) at = keys[i] < at->key ? at->left : at->right;
  values[i] = at ? at->value : -1;
}
extern "C" __global__ void insert_in_tree(Leaf** root, Leaf* fresh, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  Leaf** place = root;
  for (;;) {
    Leaf* there = (Leaf*)atomicCAS((unsigned long long*)place, 0ull, (unsigned long long)(fresh + i));
    if (!there) break;
    if (there->key == fresh[i].key) {
      atomicAdd(&there->value, fresh[i].value);
      break;
    }
    place = fresh[i].key < there->key ? &there->left : &there->right;
  }
}

// A hash table with chaining: nodes from a pool, heads exchanged atomically.
struct Entry {
  unsigned key, count;
  Entry* next;
};
extern "C" __global__ void hash_insert(Entry** buckets, int bucket_count, Entry* pool, unsigned* used, const unsigned* keys, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    unsigned key = keys[i];
    Entry** bucket = &buckets[key * 2654435761u % bucket_count];
    Entry* mine = pool + atomicAdd(used, 1u);
    mine->key = key, mine->count = 1;
    mine->next = (Entry*)atomicExch((unsigned long long*)bucket, (unsigned long long)mine);
  }
}
extern "C" __global__ void hash_count(Entry* const* buckets, int bucket_count, const unsigned* keys, int n, unsigned* counts) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned found = 0;
  for (const Entry* at = buckets[keys[i] * 2654435761u % bucket_count]; at; at = at->next) found += at->key == keys[i] ? at->count : 0;
  counts[i] = found;
}

// Rows by pointer to pointer, and pointers that the CPU follows afterwards.
extern "C" __global__ void rows_of(float** rows, float* data, int width, int height) {
  int y = threadIdx.x;
  if (y < height) rows[y] = data + (height - 1 - y) * width;
}
extern "C" __global__ void add_rows(const float* const* rows, int width, int height, float* sums) {
  for (int x = threadIdx.x; x < width; x += blockDim.x) {
    float sum = 0;
    for (int y = 0; y < height; ++y) sum += rows[y][x];
    sums[x] = sum;
  }
}

// Dynamic shared memory cut into arrays of several types, beside static shared memory.
extern __shared__ __align__(16) unsigned char arena[];
extern "C" __global__ void carved(const double* x, int n, double* out_d, int* out_i, short* out_s) {
  double* d = (double*)arena;
  int* i = (int*)(d + n);
  short* s = reinterpret_cast<short*>(i + n);
  __shared__ int reversed;
  const int t = threadIdx.x;
  if (t == 0) reversed = n - 1;
  if (t < n) d[t] = 2 * x[t], i[t] = 3 * t, s[t] = 5 * t;
  __syncthreads();
  if (t < n) out_d[t] = d[reversed - t], out_i[t] = i[reversed - t], out_s[t] = s[reversed - t];
}

// Shared structures and unions with names; a union that reuses memory between two phases.
extern "C" __global__ void phases(const float* x, float* maxima, int* ranks, int n) {
  __shared__ union {
    struct { float value[128]; int from[128]; } search;
    int counts[4][64];
  } memory;
  __shared__ struct { float best; int at; } result;
  const int t = threadIdx.x;
  memory.search.value[t] = t < n ? x[blockIdx.x * n + t] : -1e30f;
  memory.search.from[t] = t;
  __syncthreads();
  for (int half = 64; half; half >>= 1) {
    if (t < half && memory.search.value[t + half] > memory.search.value[t]) {
      memory.search.value[t] = memory.search.value[t + half];
      memory.search.from[t] = memory.search.from[t + half];
    }
    __syncthreads();
  }
  if (t == 0) result = {memory.search.value[0], memory.search.from[0]};
  __syncthreads();
  for (int i = t; i < 4 * 64; i += blockDim.x) (&memory.counts[0][0])[i] = 0;
  __syncthreads();
  if (t < n) atomicAdd(&memory.counts[t & 3][(int)(x[blockIdx.x * n + t] * 63.0f / result.best) & 63], 1);
  __syncthreads();
  if (t < 64) ranks[blockIdx.x * 64 + t] = memory.counts[0][t] + memory.counts[1][t] + memory.counts[2][t] + memory.counts[3][t];
  if (t == 0) maxima[2 * blockIdx.x] = result.best, maxima[2 * blockIdx.x + 1] = result.at;
}

// Constant structures and tables of two dimensions.
struct Limits { int low, high; float weight[2][3]; };
__constant__ Limits limits = {2, 5, {{1, 2, 3}, {4, 5, 6}}};
__constant__ const short board[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}};
__device__ const char alphabet[] = "ACGT";
__device__ int2 pairs[2] = {{1, 2}, {3, 4}};
extern "C" __global__ void constants(float* out, char* letters) {
  int t = threadIdx.x;
  out[t] = limits.weight[t % 2][t % 3] * board[t % 3][t % 4] + (t >= limits.low && t < limits.high ? 100 : 0) + pairs[t % 2].y;
  letters[t] = alphabet[t & 3];
}

// Warps that diverge, nested, and meet again under partial masks.
extern "C" __global__ void divergent(int* out) {
  __shared__ int s[64];
  const int t = threadIdx.x, lane = t & 31;
  int v = t;
  if (lane < 16) {
    v = __shfl_xor_sync(0x0000ffffu, v, 1);
    if (lane & 1) {
      v += __shfl_sync(0x0000aaaau, v, 15);
      __syncwarp(0x0000aaaau);
    } else {
      v += __popc(__ballot_sync(0x00005555u, v % 4 == 3));
    }
    __syncwarp(0x0000ffffu);
    v += __any_sync(0xffffu, lane == 3) ? 1000 : 0;
  } else {
    unsigned peers = __match_any_sync(0xffff0000u, lane / 3);
    v += (int)(peers >> 16);
    v += __all_sync(0xffff0000u, lane >= 16) ? 5 : 0;
  }
  __syncwarp();
  s[t] = v;
  __syncwarp();
  out[t] = s[t ^ 31];
}

// volatile shared memory passed between the lanes of a warp.
extern "C" __global__ void relay(int* out) {
  volatile __shared__ int cell[32];
  const int t = threadIdx.x;
  cell[t] = t;
  __syncwarp();
  for (int round = 0; round < 5; ++round) {
    int seen = cell[(t + 1) & 31];
    __syncwarp();
    cell[t] = seen + round;
    __syncwarp();
  }
  out[t] = cell[t];
}

// A breadth-first search by levels with a queue in global memory and a block's queue in shared memory.
extern "C" __global__ void visit(const int* starts, const int* edges, int* level, int depth, const int* queue, int count, int* next, int* next_count) {
  __shared__ int mine[256], used, base;
  if (threadIdx.x == 0) used = 0;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) {
    int node = queue[i];
    for (int e = starts[node]; e < starts[node + 1]; ++e)
      if (atomicCAS(&level[edges[e]], -1, depth) == -1) {
        int place = atomicAdd(&used, 1);
        if (place < 256) mine[place] = edges[e];
        else next[atomicAdd(next_count, 1)] = edges[e];
      }
  }
  __syncthreads();
  int kept = min(used, 256);
  if (threadIdx.x == 0) base = atomicAdd(next_count, kept);
  __syncthreads();
  for (int k = threadIdx.x; k < kept; k += blockDim.x) next[base + k] = mine[k];
}

// The device's own heap.
__device__ int* kept;
extern "C" __global__ void allocate(int n) {
  kept = (int*)malloc(n * sizeof(int));
  for (int i = 0; i < n; ++i) kept[i] = i * i;
}
extern "C" __global__ void use_and_free(int n, int* out) {
  struct Pair {
    int a, b;
    __device__ Pair(int x, int y) : a(x), b(y) {}
  };
  Pair* pair = new Pair(threadIdx.x, 5);
  int* many = new int[4];
  many[3] = kept[n - 1 - threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = many[3] + pair->a * pair->b;
  delete pair;
  delete[] many;
  __syncthreads();
  if (threadIdx.x == 0) free(kept), kept = nullptr;
}

// Narrow and wide types, vector loads, bit fields, what printf prints.
struct Packed { unsigned int low : 5, middle : 11, high : 16; };
extern "C" __global__ void types(const signed char* a, const unsigned char* b, const short* c, const unsigned short* d, const long long* e, unsigned long long* out) {
  int i = threadIdx.x;
  Packed p = {b[i], d[i], c[i]};  // narrowing, which nvcc takes
  unsigned ones[1] = {-1};
  out[i] = (unsigned long long)(e[i] + a[i] * c[i]) ^ ((unsigned long long)p.low << 60 | (unsigned long long)p.middle << 40 | (p.high & ones[0]));
}
extern "C" __global__ void prints(const char* text) {
  if (threadIdx.x || blockIdx.x) return;
  int returned = printf("%d|%5d|%-5d|%05d|%+d|%x|%X|%#x|%o|%u|%c|%%\n", -3, 42, 42, 42, 42, 255, 255, 255, 8, 4000000000u, 'q');
  printf("%f|%.2f|%10.3f|%e|%g|%G|%a\n", 1.5, 2.345f, -3.14159, 12345.678, 1e-5, 1e10, 1.0);
  printf("%lld|%llu|%llx|%ld|%hd|%hhu|%zu\n", -1234567890123ll, 12345678901234567890ull, 0xdeadbeefcafeull, -5l, (short)-7, (unsigned char)200, sizeof(int));
  printf("%s|%10s|%-6s|%.2s|%*d|%d\n", text, "right", "left", "cut", 6, 12, returned);
}
