// Looks up keys in a binary search tree whose nodes the CPU built, with ordinary pointers in them.
// Nothing is translated: a pointer stored by the CPU is the address that the kernel loads from.
// Access pattern: chains of dependent reads at random places, over two pieces of memory; each visit
// is counted in the node itself.

struct Node {
  long long key;
  const Node* left;
  const Node* right;
  unsigned int value;
  unsigned int visits;
};

extern "C" __global__ void tree_walk(Node* root, const long long* queries, int* found, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  long long key = queries[i];
  int result = -1;
  Node* node = root;
  while (node != nullptr) {
    atomicAdd(&node->visits, 1u);
    if (key == node->key) {
      result = (int)node->value;
      break;
    }
    node = const_cast<Node*>(key < node->key ? node->left : node->right);
  }
  found[i] = result;
}
