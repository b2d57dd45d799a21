"""hmmemu: one coherent memory for a CPU and its GPUs, page by page, in user space.

CUDA C++ kernels run on an emulated device that shares this process's memory at the same addresses.

The public names are listed in `hmmemu/_public.py`. They are imported when the first of them is used, because
`hmmemu --help` should answer at once, and pytest loads hmmemu's plugin in every run of every project.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmmemu._public import *  # noqa: F403
    from hmmemu._version import __version__ as __version__


def __getattr__(name: str) -> object:
    if name.startswith("_") and name not in ("__all__", "__version__"):
        # Tools ask every module for names like __wrapped__; `from hmmemu import _native` asks before it imports.
        raise AttributeError(f"module 'hmmemu' has no attribute {name!r}")
    if name == "__version__":
        # By itself: the installed package's metadata takes longer to read than all else together, and the libraries
        # that this loads make every later fork slower.
        return str(import_module("hmmemu._version").__version__)
    _public = import_module("hmmemu._public")
    if name in _public.__all__:
        globals()[name] = getattr(_public, name)
    known = vars(_public)
    globals().update({public: known[public] for public in ("__all__", *_public.__all__) if public in known})
    if name not in globals():
        raise AttributeError(
            f"module 'hmmemu' has no attribute {name!r}{_of_cupy(name)}", name=name, obj=sys.modules[__name__]
        )
    return globals()[name]


def _of_cupy(name: str) -> str:
    """What to do without a name that CuPy has, as the end of a sentence."""
    if name in ("ElementwiseKernel", "ReductionKernel", "fuse"):
        return f"; write a RawKernel, or on a GPU use cupy.{name} in `with hmm.device_view(x) as view:`"
    if name in ("ndarray", "asnumpy", "get_array_module", "cuda"):
        return (
            "; the arrays of hmmemu are numpy.ndarrays, and streams and events are hmm.Stream and hmm.Event"
        )
    if hasattr(sys.modules.get("numpy"), name):
        return f"; use numpy.{name}: kernels take any NumPy array, and hmm.asarray(x) copies one to the space's memory"
    return ""


def __dir__() -> list[str]:
    return sorted({*globals(), "__version__", *import_module("hmmemu._public").__all__})
