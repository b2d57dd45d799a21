"""Images, from files that the user gives or synthetic ones, and what the workloads that look at one have in common.

An image is a two-dimensional array of uint16 in native byte order, height by width. Files are either
NumPy's (.npy) or raw: 16-bit big-endian unsigned values, row by row, no header, 1536 wide and 1024 high, the
format of the van Hateren natural image collection (.iml and .imc): van Hateren and van der Schaaf,
"Independent component filters of natural images compared with simple cells in primary visual cortex", Proc.
R. Soc. Lond. B 265 (1998).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import hmmemu as hmm
from hmmemu.errors import Error
from hmmemu.kernels.workload import Workload

RAW_WIDTH, RAW_HEIGHT = 1536, 1024
RAW_BYTES = RAW_WIDTH * RAW_HEIGHT * 2

Image = NDArray[np.uint16]


class ImageError(Error, ValueError):
    """A file is not an image that the workloads can read; the message says what is expected."""


class ImageWorkload(Workload):
    """A workload on an image: a synthetic one of its size, or the user's. Its data is a plain NumPy array."""

    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": {"height": 37, "width": 50},
        "small": {"height": 512, "width": 768},
        "medium": {"height": 2048, "width": 3072},
        "large": {"height": 4096, "width": 6144},
    }
    reads_image = True

    def prepare(self, space: hmm.AddressSpace, size: Mapping[str, int], rng: np.random.Generator) -> Image:
        """A synthetic image."""
        return synthetic(size["height"], size["width"], rng)

    def prepare_image(self, image: Image) -> Image:
        """The user's image as it is."""
        return image


def load(path: str | os.PathLike[str]) -> Image:
    """Reads an image file: .npy by its own header, anything else as raw van Hateren data.

    Returns uint16, (height, width), at least 3 by 3. Raises `ImageError` for a file that is missing, of the
    wrong size or of the wrong type.
    """
    path = Path(path)
    try:
        image = _load_npy(path) if path.suffix == ".npy" else _load_raw(path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if min(image.shape) < 3:
        raise ImageError(f"{path}: the image is {_shape(image)} pixels; at least 3 x 3 are needed")
    return image


def synthetic(height: int, width: int, rng: np.random.Generator) -> Image:
    """A scene with edges, areas and noise: uint16, (height, width), values from 0 to 6500 or so.

    A slope of light from the top left (500) to the bottom right (3500), twelve discs of random place, radius
    and brightness (up to 2500 more each, a later one over an earlier one), and Gaussian noise of standard
    deviation 40.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    scene = 500 + 1500 * (y / height + x / width)
    slope = scene.copy()
    for _ in range(12):
        radius = rng.uniform(0.03, 0.2) * min(height, width)
        center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
        inside = (y - center_y) ** 2 + (x - center_x) ** 2 < radius**2
        scene[inside] = slope[inside] + rng.uniform(300, 2500)
    scene += rng.normal(0, 40, scene.shape)
    image: Image = np.clip(scene, 0, 65535).astype(np.uint16)
    return image


def _load_raw(path: Path) -> Image:
    size = path.stat().st_size
    if size != RAW_BYTES:
        raise ImageError(
            f"{path}: {size} bytes, but a raw image has {RAW_BYTES} ({RAW_WIDTH} x {RAW_HEIGHT} pixels of "
            f"16 bits, big-endian, no header); save other sizes as .npy (numpy.save, two-dimensional, uint16)"
        )
    pixels: NDArray[Any] = np.fromfile(path, ">u2")
    return pixels.astype(np.uint16).reshape(RAW_HEIGHT, RAW_WIDTH)


def _load_npy(path: Path) -> Image:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ImageError(f"{path}: not a NumPy array file: {error}") from error
    if array.ndim != 2:
        raise ImageError(f"{path}: an array of {array.ndim} dimensions; an image has 2 (height, width)")
    if array.dtype.kind not in "ui":
        raise ImageError(f"{path}: values of type {array.dtype}; an image has whole numbers, uint8 or uint16")
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise ImageError(f"{path}: values from {array.min()} to {array.max()}; an image has 0 to 65535")
    return array.astype(np.uint16)


def _shape(image: NDArray[Any]) -> str:
    return " x ".join(str(n) for n in reversed(image.shape))
