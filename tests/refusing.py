"""Machines that allow less: userfaultfd refused as container profiles do it, an unprivileged user."""

from __future__ import annotations

import os
import shutil

import pytest
from running import run_python

# Python that puts a seccomp filter on its own process: userfaultfd(2), and the ioctl by which /dev/userfaultfd makes
# one, fail with EPERM. Offsets are those of struct seccomp_data: 0 the call's number, 24 the low half of its second
# argument.
REFUSE_USERFAULTFD = """
import ctypes, platform, struct
userfaultfd, ioctl = {"x86_64": (323, 16), "aarch64": (282, 29)}[platform.machine()]
LOAD, SAME, RETURN = 0x20, 0x15, 0x06
ALLOW, EPERM = 0x7FFF0000, 0x00050001
steps = [(LOAD, 0, 0, 0), (SAME, 4, 0, userfaultfd), (SAME, 0, 2, ioctl), (LOAD, 0, 0, 24), (SAME, 1, 0, 0xAA00),
         (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Filter(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_void_p)]
filter = Filter(len(steps), ctypes.cast(code, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter)) == 0, ctypes.get_errno()
"""

_OTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def as_other_user() -> tuple[str, ...]:
    """Words that run a program as an unprivileged user: none if this process is one already."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not installed")
    if run_python("import numpy, hmmemu", *_OTHER_USER).returncode:
        pytest.skip("an unprivileged user cannot read this Python installation")
    return _OTHER_USER
