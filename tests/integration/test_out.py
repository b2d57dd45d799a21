"""`hmm.Out` beside launches that are under way."""

from __future__ import annotations

import numpy as np

import hmmemu as hmm

SOURCE = r"""
extern "C" __global__ void copy(const int* from, int* to, int n, int steps) {
  for (volatile int i = 0; i < steps; ++i) {}
  for (int i = 0; i < n; ++i) to[i] = from[i];
}
extern "C" __global__ void fill(int* x, int n) { for (int i = 0; i < n; ++i) x[i] = 7; }
"""
N = 20_000


def test_what_a_launch_will_write_is_there_for_the_one_before(space: hmm.AddressSpace) -> None:
    module, stream = hmm.RawModule(SOURCE), hmm.Stream()
    x, y = space.array(np.ones(N, np.int32)), space.zeros(N, np.int32)
    module.get_function("copy")(1, 1, (hmm.In(x), hmm.Out(y), N, 500_000), stream=stream)
    module.get_function("fill")(1, 1, (hmm.Out(x), N), stream=stream)
    stream.synchronize()
    assert (y == 1).all() and (x == 7).all()
