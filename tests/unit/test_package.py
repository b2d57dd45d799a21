"""The package itself: its public names, which are imported when first used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from running import run_python

import hmmemu as hmm


def test_every_public_name_is_there():
    assert {"AddressSpace", "RawKernel", "RawModule", "In", "Error", "Stats", "cpu", "zeros"} <= set(
        hmm.__all__
    )
    for name in hmm.__all__:
        assert getattr(hmm, name) is not None
    assert set(hmm.__all__) <= set(dir(hmm))


def test_names_that_few_programs_say_come_when_asked_for():
    code = """
import sys, hmmemu
hmmemu.AddressSpace
assert "hmmemu.atomics" not in sys.modules and "hmmemu.failure" not in sys.modules
from hmmemu import *
assert AtomicUse.__module__ == "hmmemu.atomic_uses" and hmmemu.AtomicsReport is AtomicsReport
"""
    done = run_python(code, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="module 'hmmemu' has no attribute 'nosuch'"):
        hmm.nosuch  # noqa: B018
    with pytest.raises(AttributeError, match=r"'arange'; use numpy\.arange: kernels take any NumPy array"):
        hmm.arange  # noqa: B018
    assert not hasattr(hmm, "__wrapped__")
    done = subprocess.run(
        [sys.executable, "-c", "import hmmemu; hmmemu.RawKernal"], capture_output=True, text=True
    )
    assert "Did you mean: 'RawKernel'?" in done.stderr


@pytest.mark.parametrize(
    ("name", "told"), [("ElementwiseKernel", "write a RawKernel"), ("asnumpy", "numpy.ndarrays")]
)
def test_a_name_that_cupy_has(name: str, told: str) -> None:
    with pytest.raises(AttributeError, match=told):
        getattr(hmm, name)


def test_star_import():
    names: dict[str, object] = {}
    exec("from hmmemu import *", names)
    assert names["AddressSpace"] is hmm.AddressSpace


def test_import_alone_loads_nothing_heavy():
    code = "import sys, hmmemu; print([m for m in ('numpy', 'hmmemu._native') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_known():
    assert hmm.__version__ == version("hmmemu")
    assert "__version__" in dir(hmm)


def test_an_open_space_carries_few_libraries():
    """Each makes every fork of the program slower. These come with the first use of what needs them."""
    code = (
        "import sys, numpy; before = set(sys.modules); import hmmemu\n"
        "with hmmemu.AddressSpace(device='emulated'): after = set(sys.modules)\n"
        "print(sorted((after - before) & {'importlib.metadata', 'zipfile', 'lzma', 'email', 'subprocess', 'socket'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


EVERY_MODULE_FIRST = """
import os, pkgutil, sys, traceback
import numpy, hmmemu
wrong = []
for name in sorted(m.name for m in pkgutil.iter_modules(hmmemu.__path__) if not m.name.startswith("__")):
    child = os.fork()
    if child == 0:
        try:
            __import__("hmmemu." + name)
        except ImportError as error:
            if "cupy" not in str(error).lower():
                traceback.print_exc()
                os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        wrong.append(name)
print(wrong)
"""


def test_any_module_may_be_imported_first() -> None:
    """The public names come late, by `__getattr__`; a module that asks the package for another one would bring them."""
    done = run_python(EVERY_MODULE_FIRST)
    assert done.stdout == "[]\n", done.stdout + done.stderr
