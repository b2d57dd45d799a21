// Breadth-first search that CPU and device do in turn, one level each: a thread takes a vertex of the
// frontier, claims its unseen neighbours and appends them to the next frontier. Several devices take a part
// of the same frontier each, at once, so every atomic has system scope. Access pattern: data-dependent;
// whoever does the next level finds the marks and the queue where the other left them.

extern "C" __global__ void expand(const int* edge_start, const int* edges, int* level, const int* frontier,
                                  int frontier_size, int* next, int* next_size, int depth) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= frontier_size)
    return;
  int vertex = frontier[i];
  int end = edge_start[vertex + 1];
  for (int e = edge_start[vertex]; e < end; ++e) {
    int neighbour = edges[e];
    if (atomicCAS_system(&level[neighbour], -1, depth) == -1)
      next[atomicAdd_system(next_size, 1)] = neighbour;
  }
}
