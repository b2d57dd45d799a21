"""Changing the protection of single pages makes mappings, of which a process has a limited number."""

from __future__ import annotations

import pytest
from running import run_python

CODE = """
import ctypes, mmap
import numpy as np, hmmemu as hmm

libc, PAGE = ctypes.CDLL(None, use_errno=True), 4096
limit = int(open("/proc/sys/vm/max_map_count").read())
space = hmm.AddressSpace(device="emulated", tracker="signal", policy=hmm.Policy(grow=False))
device = space.devices[0]
x = space.empty(3000 * 1024, np.int32)
x[:] = np.arange(x.size)
model = x.copy()

filler = mmap.mmap(-1, limit * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(filler))
last = 1
def protect(page, how):
    return libc.mprotect(ctypes.c_void_p(base + page * PAGE), ctypes.c_size_t(PAGE), how)
while protect(last, 0) == 0:
    last += 2
for _ in range(ROOM):
    last -= 2
    assert protect(last, 3) == 0

for page in range(0, 3000, 2):
    device.migrate(x[page * 1024 : (page + 1) * 1024])
for page in range(0, 3000, 7):
    x[page * 1024 + 1] += 1
    model[page * 1024 + 1] += 1
device.write(x[:5000], 9)
model[:5000] = 9
assert np.array_equal(x, model)
assert np.array_equal(device.read(x), model)
space.close()
assert np.array_equal(x, model)
print("all right")
"""


@pytest.mark.parametrize("room", [0, 10, 400])
def test_pages_move_in_blocks_when_mappings_run_out(room: int) -> None:
    done = run_python(CODE.replace("ROOM", str(room)), timeout=100)
    assert done.stdout == "all right\n", done.stderr
