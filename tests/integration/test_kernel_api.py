"""RawKernel, RawModule, streams, events, arguments: the public way to launch."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.modules import LoadedModule

SOURCE = r"""
__constant__ float weights[4] = {1, 2, 3, 4};
__device__ unsigned long long counter;
__device__ int table[5000];
template <class T> __global__ void scale(T* x, int n, T a) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= a;
}
extern "C" __global__ void weigh(float* x) { x[threadIdx.x] *= weights[threadIdx.x & 3]; }
extern "C" __global__ void tick() { atomicAdd(&counter, 1ull); atomicAdd(&table[threadIdx.x], (int)blockIdx.x); }
extern "C" __global__ void rows(const float* x, int stride, float* sums) {
  float s = 0;
  for (int i = 0; i < 10; ++i) s += x[threadIdx.x * stride + i];
  sums[threadIdx.x] = s;
}
extern "C" __global__ void hello(int n) { if (threadIdx.x < n) printf("block %d thread %d\n", (int)blockIdx.x, (int)threadIdx.x); }
extern "C" __global__ void dynamic(int* out, int n) {
  extern __shared__ int s[];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = s[n - 1 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(64) small(int* x) { x[threadIdx.x] = blockDim.x; }
"""


@pytest.fixture(scope="module")
def module() -> hmm.RawModule:
    return hmm.RawModule(SOURCE, name_expressions=["scale<float>", "scale<int>"], filename="api.cu")


def test_templates(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x, i = space.full(100, 3, np.float32), np.full(100, 3, np.int32)
    module.get_function("scale<float>")((1,), (128,), (x, 100, np.float32(2)))
    module.get_function("scale<int>")((1,), (128,), (i, 100, 5))
    assert (x == 6).all() and (i == 15).all()


def test_constants_and_variables(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = space.full(8, 1, np.float32)
    module.get_function("weigh")(1, 8, (x,))
    np.testing.assert_array_equal(x, [1, 2, 3, 4, 1, 2, 3, 4])
    module.get_global("weights").view(np.float32)[:] = [10, 20, 30, 40]
    module.get_function("weigh")(1, 8, (x,))
    np.testing.assert_array_equal(x, [10, 40, 90, 160, 10, 40, 90, 160])
    for _ in range(3):
        module.get_function("tick")(4, 32)
    assert int(module.get_global("counter").view(np.uint64)[0]) == 3 * 4 * 32
    table = module.get_global("table").view(np.int32)
    assert table.shape == (5000,) and (table[:32] == 18).all() and not table[32:].any()
    with pytest.raises(hmm.ArgumentError, match="counter, table, weights"):
        module.get_global("nothing")


def test_variables_outlive_a_failed_kernel(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    module.get_function("tick")(1, 32)
    with pytest.raises(hmm.KernelFault):
        module.get_function("weigh")(1, 1, (None,))
    module.get_function("tick")(1, 32)
    assert int(module.get_global("counter").view(np.uint64)[0]) == 64


def test_variables_outlive_an_interrupted_load(
    space: hmm.AddressSpace, module: hmm.RawModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the process has taken the memory of the variables: it keeps that memory."""
    supervisor = space.devices[0].supervisor
    real, answers = supervisor.ask, []

    def interrupted(*args: Any) -> Any:
        answers.append(real(*args))
        if isinstance(answers[-1], str):
            raise KeyboardInterrupt
        return answers[-1]

    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            module.get_global("weights")
    assert [type(answer) for answer in answers] == [int, str]
    others = [space.full(answers[0], 0xFF, np.uint8) for _ in range(2)]
    weights = module.get_global("weights")
    assert weights.view(np.float32).tolist() == [1, 2, 3, 4]
    assert not any(np.shares_memory(weights, other) for other in others)


def test_initial_values_are_written_after_an_interrupted_load(
    space: hmm.AddressSpace, module: hmm.RawModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the process leaves to Python, as a GPU's does."""
    real, finished = LoadedModule.initialise, []

    def interrupted(self: LoadedModule) -> None:
        monkeypatch.setattr(LoadedModule, "initialise", lambda self: finished.append(real(self)))
        raise KeyboardInterrupt

    monkeypatch.setattr(LoadedModule, "initialise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.get_global("weights")
    for _ in range(2):
        assert module.get_global("weights").view(np.float32).tolist() == [1, 2, 3, 4]
    assert len(finished) == 1


def test_each_device_has_its_own_variables(two_devices: hmm.AddressSpace, module: hmm.RawModule) -> None:
    for times, device in enumerate(two_devices.devices, 1):
        with device:
            for _ in range(times):
                module.get_function("tick")(1, 1)
    counts = []
    for device in two_devices.devices:
        with device:
            counts.append(int(module.get_global("counter").view(np.uint64)[0]))
    assert counts == [1, 2]


def test_views_and_strides(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = space.array(np.arange(600, dtype=np.float32).reshape(20, 30))
    sums = np.zeros(8, np.float32)
    part = x[4:12, 10:20]
    module.get_function("rows")(1, 8, (part, part.strides[0] // 4, sums))
    np.testing.assert_array_equal(sums, part.sum(1))
    backwards = np.arange(300, dtype=np.float32)[::-1].reshape(10, 30)[
        2:, 5:15
    ]  # negative strides, plain memory
    module.get_function("rows")(1, 8, (backwards[::-1, ::-1], 30, sums))
    np.testing.assert_array_equal(sums, backwards[::-1, ::-1].sum(1))


def test_printf(space: hmm.AddressSpace, module: hmm.RawModule, capsys: pytest.CaptureFixture[str]) -> None:
    module.get_function("hello")(2, 32, (3,))
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == [f"block {b} thread {t}" for b in range(2) for t in range(3)]


def test_printf_past_its_buffer_is_told(
    space: hmm.AddressSpace, module: hmm.RawModule, capsys: pytest.CaptureFixture[str]
) -> None:
    module.get_function("hello")(3000, 32, (32,))
    text = capsys.readouterr().out
    assert 900_000 < len(text) < 1_100_000
    assert "bytes of printf output were lost" in text.splitlines()[-1]


class Stdout(io.StringIO):
    """What it takes is in `taken`; `error` is what its disk says."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.error, self.taken = error, ""

    def write(self, text: str) -> int:
        if self.error:
            raise self.error
        self.taken += text.encode("ascii").decode()
        return len(text)


def test_printf_with_a_stdout_that_cannot_take_it(
    space: hmm.AddressSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = r"""extern "C" __global__ void say(const int* x) { printf("\u2192 %d\n", x[0]); assert(x[0] == 0); }"""
    say, fine, bad = hmm.RawKernel(source, "say"), space.zeros(1, np.int32), space.ones(1, np.int32)
    full = Stdout(OSError(errno.ENOSPC, "disk full"))
    monkeypatch.setattr(sys, "stdout", full)
    with pytest.raises(OSError, match="disk full"):
        say(1, 1, (fine,))
    with pytest.raises(hmm.KernelAssertion, match="say"):
        say(1, 1, (bad,))
    monkeypatch.setattr(sys, "stdout", None)
    say(1, 1, (fine,))
    with pytest.raises(hmm.KernelAssertion, match="say"):
        say(1, 1, (bad,))
    ascii_only = Stdout()
    monkeypatch.setattr(sys, "stdout", ascii_only)
    say(1, 1, (fine,))
    assert ascii_only.taken == "? 0\n"


def test_dynamic_shared_memory(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    out = space.zeros(100, np.int32)
    module.get_function("dynamic")(1, 100, (out, 100), shared_mem=400)
    np.testing.assert_array_equal(out, np.arange(100)[::-1])
    with pytest.raises(hmm.ArgumentError, match=r"shared_mem=1000000"):
        module.get_function("dynamic")(1, 100, (out, 100), shared_mem=1_000_000)


def test_launch_bounds_and_attributes(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    small = module.get_function("small")
    assert small.attributes["max_threads_per_block"] == 64
    with pytest.raises(hmm.ArgumentError, match="small allows 64"):
        small(1, 65, (space.zeros(65, np.int32),))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1, 2, 3, 4), 1, "1 to 3 dimensions"),
        (0, 1, "outside CUDA's limits"),
        (1, (1, 1, 65), "outside CUDA's limits"),
        ((1, 70000), 1, "outside CUDA's limits"),
        (1, (32, 32, 2), "allows 1024"),
        ("x", 1, "grid is an integer, or one to three of them, not 'x'"),
        ("12", 1, "not '12'"),
        (1, (1.5,), r"block is an integer, or one to three of them, not \(1\.5,\)"),
        (1.0, 1, "not 1.0"),
        (None, 1, "not None"),
        ([[1]], 1, r"not \[\[1\]\]"),
    ],
)
def test_bad_shapes(
    space: hmm.AddressSpace, module: hmm.RawModule, grid: object, block: object, message: str
) -> None:
    with pytest.raises(hmm.ArgumentError, match=message):
        module.get_function("tick")(grid, block)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared_mem": 1.5}, r"shared_mem=1\.5: tick can have 0 to"),
        ({"shared_mem": -1}, "can have 0 to"),
        ({"shared_mem": 1 << 30}, "can have 0 to"),
        ({"stream": 3}, "an hmm.Stream, not to a builtins.int"),
        ({"device": "cuda"}, "one of space.devices is needed"),
    ],
)
def test_bad_launches(
    space: hmm.AddressSpace, module: hmm.RawModule, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(hmm.ArgumentError, match=message):
        module.get_function("tick")(1, 1, (), **options)


def test_shapes_may_be_numpys_integers(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    x = space.zeros(4, np.int32)
    module.get_function("small")(np.int64(1), (np.int32(4),), (x,), shared_mem=np.int64(0))
    assert x.any()


def test_a_module_is_made_of_strings() -> None:
    source = "__global__ void k() {}"
    for wrong, message in [
        (lambda: hmm.RawModule(source.encode()), "not bytes; path= takes a file"),
        (lambda: hmm.RawKernel(None, "k"), "a module has either code"),
        (lambda: hmm.RawKernel(source, None), "name of a kernel is a string, not None"),
        (
            lambda: hmm.RawKernel(source, "k", options="-DN=4"),
            "options is a tuple or list of strings, not '-DN=4'",
        ),
        (lambda: hmm.RawModule(source, options=[4]), "options is a tuple or list of strings"),
        (lambda: hmm.RawModule(source, name_expressions="t<float>"), "name_expressions is a tuple or list"),
    ]:
        with pytest.raises(hmm.ArgumentError, match=message):
            wrong()


def test_cupys_own_options_of_a_module() -> None:
    hmm.RawModule(code="", jitify=True, translate_cucomplex=True, enable_cooperative_groups=False)
    with pytest.raises(hmm.UnsupportedError, match="no barrier together"):
        hmm.RawKernel("", "k", enable_cooperative_groups=True)


def test_a_file_with_a_byte_order_mark_and_an_old_comment(space: hmm.AddressSpace, tmp_path: Path) -> None:
    file = tmp_path / "old.cu"
    file.write_bytes(b'\xef\xbb\xbfextern "C" __global__ void k(int* x) { x[0] = 3; }  // gr\xf6\xdfe\r\n')
    x = space.zeros(1, np.int32)
    hmm.RawModule(path=file).get_function("k")(1, 1, (x,))
    assert x[0] == 3
    with pytest.raises(FileNotFoundError, match=r"missing\.cu"):
        hmm.RawModule(path=tmp_path / "missing.cu")


def test_names_that_are_not_there(space: hmm.AddressSpace, module: hmm.RawModule) -> None:
    with pytest.raises(hmm.ArgumentError, match=r"no kernel 'wiegh'.*weigh"):
        module.get_function("wiegh")(1, 1)
    with pytest.raises(hmm.ArgumentError, match="either code, the source as a string, or path="):
        hmm.RawModule()
    with pytest.raises(hmm.ArgumentError, match="a tuple or a list"):
        module.get_function("hello")(1, 1, 3)  # type: ignore[arg-type]


def test_wrong_source_shows_the_users_line(space: hmm.AddressSpace) -> None:
    kernel = hmm.RawKernel(
        'extern "C" __global__ void k(int* x) {\n  x[0] = 1;\n  y[0] = 2;\n}\n', "k", filename="mine.cu"
    )
    with pytest.raises(hmm.CompileError, match=r"mine\.cu:3"):
        kernel(1, 1, (space.zeros(1, np.int32),))


def test_streams_keep_order_and_events_measure(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x = space.zeros(1 << 16, np.int32)
    stream, begin, end = hmm.Stream(), hmm.Event(), hmm.Event()
    with stream:
        begin.record()
        for value in range(20):
            kernels.get_function("fill")(4, 256, (x, x.size, value))
        kernels.get_function("add")(4, 256, (x, x.size, 100))
        end.record()
    end.synchronize(30)
    assert stream.done and end.done and (x == 119).all()
    assert 0 < hmm.get_elapsed_time(begin, end) < 30_000
    with pytest.raises(hmm.ArgumentError, match="never recorded"):
        hmm.get_elapsed_time(hmm.Event(), end)


def test_more_launches_than_the_queue_holds(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    x = space.zeros(64, np.int32)
    with hmm.Stream() as stream:
        for _ in range(3000):
            kernels.get_function("add")(1, 64, (x, 64, 1))
    stream.synchronize(60)
    assert (x == 3000).all()


def test_arguments_live_until_the_kernel_ends(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    flag, stream = space.zeros(1, np.int32), hmm.Stream()
    out = space.zeros(1 << 18, np.int32)
    kernels.get_function("spin")(1, 1, (flag,), stream=stream)
    kernels.get_function("copy")(8, 128, (np.full(1 << 18, 9, np.int32), out, 1 << 18), stream=stream)
    assert np.full(1 << 18, 1, np.int32).all()  # would take the freed memory
    flag[0] = 1
    stream.synchronize(30)
    assert (out == 9).all()


def test_out_moves_nothing_in(page_by_page: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    space = page_by_page
    x = space.full(100 * 1024, 5, np.int32)
    kernels.get_function("fill")(1, 256, (hmm.Out(x), x.size, 6))
    assert not [t for t in space.stats().transfers if t.direction == "HtoD"]
    assert (x == 6).all()


def test_launch_can_prefetch(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace(policy=hmm.Policy(launch="prefetch"), timeout=60) as space:
        x, y = space.full(300_000, 1, np.int32), space.zeros(300_000, np.int32)
        kernels.get_function("copy")(8, 128, (x, y, x.size))
        assert space.stats().processors[1].faults == 0
        assert set(space.residency(x)) == {"SS"} and set(space.residency(y)) == {"-X"}
        assert (y == 1).all()


def test_module_functions_use_the_current_space(kernels: hmm.RawModule) -> None:
    with hmm.AddressSpace() as space:
        x = hmm.ones((3, 4), np.int32)
        assert x.ctypes.data in space.memory.arena and hmm.current_space() is space
        assert hmm.zeros_like(x).shape == (3, 4) and hmm.full_like(x, 7).sum() == 84
        f = hmm.asarray(np.asfortranarray(np.arange(6).reshape(2, 3)))
        assert f.flags.f_contiguous and hmm.asarray(f) is f
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hmm.empty(3).shape == (3,)  # the default space


def test_no_word_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HMMEMU_DEVICE", raising=False)
    monkeypatch.setenv("HMMEMU_LIBCUDA", "/nowhere/libcuda.so.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with hmm.AddressSpace() as space:
            assert "no GPU can be used: /nowhere/libcuda.so.1 cannot be loaded" in space.devices[0].why
        hmm.AddressSpace(device="emulated").close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "use 'auto', 'emulated' or 'cuda'"),
        ({"tracker": "magic"}, "use 'auto' or one of 'uffd', 'signal', 'async'"),
        ({"devices": 0}, "1 to 15"),
        ({"workers": 0}, "1 to 256"),
        ({"workers": "all"}, "workers='all': a device has 1 to 256"),
        ({"device": None}, "device=None: a name, as 'emulated'"),
        ({"device": b"cuda"}, "device=b'cuda': a name"),
        ({"device": [0, 1]}, r"device=\[0, 1\]: a name"),
        ({"devices": "2"}, "devices='2': an address space has 1 to 15"),
        ({"devices": 1.5}, "devices=1.5: an address space has 1 to 15"),
        ({"arena_bytes": 5000}, "arena_bytes=5000: bytes of address space, 2 MiB or more"),
        ({"arena_bytes": 1e9}, "arena_bytes=1000000000.0: bytes"),
        ({"check_reach": "x"}, "check_reach='x': True, False, or None"),
        ({"policy": "eager"}, r"policy='eager': an hmm\.Policy is needed"),
        ({"device_memory": "1G"}, "device_memory='1G': bytes; a device has at least 4 MiB"),
        ({"device_memory": 4096}, "at least 4 MiB"),
        ({"timeout": "x"}, "timeout='x': seconds, more than 0, or None"),
        ({"timeout": 0}, "timeout=0: seconds, more than 0"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(hmm.ArgumentError, match=message):
        hmm.AddressSpace(**options)


def test_bad_policies() -> None:
    for lapse in (0, 1.5, -1, float("nan")):
        with pytest.raises(hmm.ArgumentError, match=r"Policy\.thrashing_lapse is 1e-6 to 1 seconds, not"):
            hmm.Policy(thrashing_lapse=lapse)


def test_bad_arrays(space: hmm.AddressSpace) -> None:
    with pytest.raises(hmm.ArgumentError, match="Python objects"):
        space.empty(3, object)
    with pytest.raises(hmm.ArgumentError, match="negative"):
        space.empty((3, -1))
    for dtype in ("U", "S", "V0", "(0,)i4"):
        with pytest.raises(hmm.ArgumentError, match="have no size"):
            space.zeros(5, dtype)
    with pytest.raises(hmm.ArgumentError, match=r"order='K': use 'C' or 'F'"):
        space.zeros(5, order="K")  # type: ignore[arg-type]
    for shape in ("a", 1.5, None, (2, 0.5)):
        with pytest.raises(hmm.ArgumentError, match="a shape is an integer, or some of them, not"):
            space.zeros(shape)  # type: ignore[arg-type]
    with pytest.raises(hmm.ArgumentError, match="not list"):
        space.register([1, 2])  # type: ignore[arg-type]
    with pytest.raises(hmm.RangeError, match=r"array of shape \(3,\).*not in the address space"):
        space.residency(np.zeros(3))
    with pytest.raises(hmm.ArgumentError, match="prefetch goes to"):
        space.prefetch(space.zeros(3), "gpu")  # type: ignore[arg-type]


def test_elements_of_several_numbers(space: hmm.AddressSpace) -> None:
    for shape, dtype in ((4, "3i4"), ((2, 3), "(2,2)f8")):
        made, like = space.zeros(shape, dtype), np.zeros(shape, dtype)
        assert (made.shape, made.dtype) == (like.shape, like.dtype)


def test_memory_where_the_device_itself_lives(space: hmm.AddressSpace, kernels: hmm.RawModule) -> None:
    """An address that the device process uses gives it a new layout, never a wrong mapping."""
    import ctypes
    import re
    from pathlib import Path

    kept = space.full(5000, 7, np.int32)
    space.devices[0].migrate(kept)
    maps = Path(f"/proc/{space.devices[0].process.pid}/maps").read_text()
    libc = min(int(a, 16) for a in re.findall(r"^([0-9a-f]+)-.*libc", maps, re.M))
    mmap = ctypes.CDLL(None).mmap
    mmap.restype, mmap.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
    )
    private_anonymous_fixed_noreplace = 0x100022
    got = mmap(libc, 1 << 16, 3, private_anonymous_fixed_noreplace, -1, 0)
    assert got == libc
    x = np.ctypeslib.as_array((ctypes.c_int * (1 << 14)).from_address(libc))
    kernels.get_function("fill")(4, 256, (x, x.size, 3))
    assert (x == 3).all() and (kept == 7).all()
    space.unregister(x)


def test_streams_and_events_say_what_they_are(space: hmm.AddressSpace) -> None:
    event = hmm.Event()
    assert repr(event) == "<hmmemu.Event, never recorded>"
    event.record()
    event.synchronize()
    assert repr(event) == "<hmmemu.Event, reached>"
    assert repr(hmm.Stream.null) == "<hmmemu.Stream, the default one>"
    assert repr(hmm.RawKernel("", "k")) == "<hmmemu kernel 'k' of a string>"


def test_a_stream_is_of_no_device(space: hmm.AddressSpace) -> None:
    """It would be taken for `null=True`, and each launch would wait."""
    with pytest.raises(hmm.ArgumentError, match=r"Stream\(null=<hmmemu\.Device 0.*with device:"):
        hmm.Stream(space.devices[0])  # type: ignore[arg-type]
