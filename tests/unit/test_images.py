"""Image files for the workloads: right ones are read, wrong ones are told what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import hmmemu as hmm
from hmmemu.kernels import WORKLOADS, images


def test_raw_file_is_big_endian_row_by_row(tmp_path):
    path = tmp_path / "photo.iml"
    data = bytearray(1536 * 1024 * 2)
    data[0:4] = b"\x00\x30\x18\x8a"  # 48, 6282
    data[1536 * 2 : 1536 * 2 + 2] = b"\x01\x02"
    path.write_bytes(data)
    image = images.load(path)
    assert image.shape == (1024, 1536) and image.dtype == np.uint16 and image.dtype.isnative
    assert image[0, :3].tolist() == [48, 6282, 0] and image[1, 0] == 258


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.int64])
def test_npy_file(tmp_path, dtype):
    path = tmp_path / "photo.npy"
    values = np.arange(12).reshape(3, 4)
    np.save(path, values.astype(dtype))
    image = images.load(path)
    assert image.dtype == np.uint16 and image.tolist() == values.tolist()


def save(tmp_path, array):
    np.save(tmp_path / "bad.npy", array)
    return tmp_path / "bad.npy"


def test_raw_file_of_the_wrong_size(tmp_path):
    path = tmp_path / "photo.iml"
    path.write_bytes(b"123")
    with pytest.raises(images.ImageError, match=r"photo\.iml: 3 bytes, but a raw image has 3145728 \(1536 x"):
        images.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(images.ImageError, match=r"none\.iml: cannot be read: No such file"):
        images.load(tmp_path / "none.iml")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 3, 3), np.uint8), "an array of 3 dimensions"),
        (np.zeros((5, 5)), "values of type float64"),
        (np.full((5, 5), -1), "values from -1 to -1; an image has 0 to 65535"),
        (np.full((5, 5), 65536), "values from 65536 to 65536"),
        (np.zeros((2, 5), np.uint8), "the image is 5 x 2 pixels; at least 3 x 3"),
        (np.zeros((0, 5), np.uint8), "the image is 5 x 0 pixels"),
        (np.array([[object()]]), "not a NumPy array file: Object arrays cannot be loaded"),
    ],
)
def test_npy_file_that_is_no_image(tmp_path, array, words):
    with pytest.raises(images.ImageError, match=words):
        images.load(save(tmp_path, array))


def test_npy_file_of_garbage(tmp_path):
    for garbage in (b"", b"not an array", b"\x93NUMPY\x01\x00"):
        (tmp_path / "bad.npy").write_bytes(garbage)
        with pytest.raises(images.ImageError, match="not a NumPy array file"):
            images.load(tmp_path / "bad.npy")


def test_synthetic_image_has_range_and_edges():
    image = images.synthetic(200, 300, np.random.default_rng(0))
    assert image.shape == (200, 300) and image.dtype == np.uint16
    assert 300 < image.min() < 800 and 3500 < image.max() < 7000
    assert np.abs(np.diff(image.astype(int), axis=1)).max() > 300


@pytest.mark.parametrize("name", [n for n in WORKLOADS if WORKLOADS[n].reads_image])
def test_workload_on_a_given_image(name, hmm_space):
    image = np.random.default_rng(3).integers(0, 65536, (61, 43), np.uint16)
    image[:2, :2] = [[0, 65535], [65535, 0]]
    outcome = WORKLOADS[name].run(hmm_space, image=image)
    assert outcome.verified, outcome.mismatch
    assert outcome.size == "input"
    assert outcome.parameters.items() >= {"height": 61, "width": 43}.items()


def test_workload_that_takes_no_image(hmm_space):
    with pytest.raises(hmm.ArgumentError, match="spmv takes no image"):
        WORKLOADS["spmv"].run(hmm_space, image=np.zeros((3, 3), np.uint16))
