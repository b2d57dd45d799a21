// Shortest paths with whole-number weights, one round each by CPU or device: a thread takes a vertex of the
// worklist and offers its neighbours a shorter way; who improves a vertex appends it to the next worklist, once a
// round. A vertex that is improved after it was read here is on the next list by that. Access pattern:
// data-dependent; atomic minima all over one array, which PCIe does not carry.

extern "C" __global__ void relax(const int* edge_start, const int* edges, const int* weights, int* distance,
                                 int* queued, const int* frontier, int frontier_size, int* next,
                                 int* next_size, int round) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= frontier_size)
    return;
  int vertex = frontier[i];
  int here = *(volatile int*)&distance[vertex];
  int end = edge_start[vertex + 1];
  for (int e = edge_start[vertex]; e < end; ++e) {
    int neighbour = edges[e], length = here + weights[e];
    if (atomicMin_system(&distance[neighbour], length) > length &&
        atomicExch_system(&queued[neighbour], round) != round)
      next[atomicAdd_system(next_size, 1)] = neighbour;
  }
}
