// Breadth-first search, one launch a level: a thread takes a vertex of the frontier, claims its
// unseen neighbours and puts them into the next frontier. Access pattern: data-dependent reads and
// atomics all over the graph; the CPU reads one counter after every level.

extern "C" __global__ void expand(const int* edge_start, const int* edges, int* level,
                                  const int* frontier, int frontier_size, int* next, int* next_size,
                                  int depth) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= frontier_size)
    return;
  int vertex = frontier[i];
  int end = edge_start[vertex + 1];
  for (int e = edge_start[vertex]; e < end; ++e) {
    int neighbour = edges[e];
    if (atomicCAS(&level[neighbour], -1, depth) == -1)
      next[atomicAdd(next_size, 1)] = neighbour;
  }
}
