"""The link of a GPU: capabilities that the stand-in for libcuda tells, speeds from a table of PCI devices."""

from __future__ import annotations

import json

import fakecuda
import pytest
from click.testing import CliRunner

import hmmemu as hmm
from hmmemu import gpu_link, gpus
from hmmemu.cli.group import main
from hmmemu.link_figures import ALL_ATOMICS, NO_ATOMICS, PCIE_ATOMICS

O = hmm.AtomicOperation  # noqa: E741


@pytest.fixture
def cuda(monkeypatch, tmp_path):
    """cuda("atomics=none"): a machine with that GPU, on a PCI bus that is empty."""
    monkeypatch.setenv("HMMEMU_LIBCUDA", str(fakecuda.library()))
    monkeypatch.setattr(gpus, "installed_cupy", lambda: "cupy-cuda12x 14.2.0")
    monkeypatch.setattr(gpu_link, "PCI_DEVICES", tmp_path / "devices")
    return lambda settings="": monkeypatch.setenv("FAKE_CUDA", settings)


def put_device(folder, bus, *ends):
    """A PCI device and the port above it, each a pair (speed, width)."""
    (folder / "devices").mkdir(exist_ok=True)
    device = folder / "port" / bus
    device.mkdir(parents=True)
    for place, (speed, width) in zip((device, device.parent), ends, strict=False):
        (place / "max_link_speed").write_text(speed)
        (place / "max_link_width").write_text(width)
    (folder / "devices" / bus).symlink_to(device)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [("", PCIE_ATOMICS), ("atomics=pcie", PCIE_ATOMICS), ("atomics=none", NO_ATOMICS)],
)
def test_what_the_driver_says(cuda, settings, expected):
    cuda(settings)
    link, words = gpu_link.find_gpu_link("gpu")
    assert link.name == "cuda:0" and link.atomics == expected
    assert words.startswith('Fake GPU "0"; its speed cannot be read') and words.endswith("as the driver says")


def test_a_link_that_carries_all_has_16_bits_too(cuda):
    cuda("atomics=all")
    link, _ = gpu_link.find_gpu_link("cuda")
    for operation in O:
        for bits in (16, 32, 64, 128):
            everything = hmm.Link("all", 1, 0, 0, ALL_ATOMICS)
            if everything.native(operation, bits):
                assert link.native(operation, bits), (operation, bits)
    assert link.native(O.CAS, 16) and not link.native(O.INTEGER_ADD, 16)


@pytest.mark.parametrize(("settings", "expected"), [("", NO_ATOMICS), ("atomics=all", ALL_ATOMICS)])
def test_a_driver_without_the_call(cuda, monkeypatch, settings, expected):
    """It says "all" or nothing; nothing is taken for none."""
    monkeypatch.setenv("HMMEMU_LIBCUDA", str(fakecuda.library("-DFAKE_CUDA_12")))
    cuda(settings)
    (gpu,) = gpus.find_gpus()
    assert gpu.atomics == () and "has no cuDeviceGetHostAtomicCapabilities" in gpu.atomics_unknown
    link, words = gpu_link.gpu_link(gpu)
    assert link.atomics == expected and gpu.atomics_unknown in words


def test_a_call_that_fails(cuda):
    cuda("fail=cuDeviceGetHostAtomicCapabilities:1")
    link, words = gpu_link.find_gpu_link("gpu")
    assert link.atomics == NO_ATOMICS
    assert "taken for none: cannot ask GPU 0 for its atomics: cuDeviceGetHostAtomic" in words
    assert "invalid argument" in words


@pytest.mark.parametrize(
    ("ends", "bandwidth", "words"),
    [
        ([("16.0 GT/s PCIe", "16"), ("32.0 GT/s PCIe", "16")], 31.508e9, "PCIe 4, 16 lanes of 16 GT/s"),
        ([("32.0 GT/s PCIe", "16"), ("16.0 GT/s PCIe", "8")], 15.754e9, "PCIe 4, 8 lanes"),
        ([("64.0 GT/s PCIe", "16")], 121e9, "PCIe 6, 16 lanes of 64"),
        ([("2.5 GT/s PCIe", "4")], 1e9, "PCIe 1, 4 lanes of 2.5"),
        ([("8 GT/s", "16\n")], 15.754e9, "PCIe 3, 16 lanes of 8"),
        ([("Unknown", "255")], 31.508e9, "cannot be read; with the figures of profile pcie4"),
    ],
)
def test_the_speed(cuda, tmp_path, ends, bandwidth, words):
    cuda("bus=0000:65:00.0")
    put_device(tmp_path, "0000:65:00.0", *ends)
    link, told = gpu_link.find_gpu_link("gpu")
    assert link.bandwidth == pytest.approx(bandwidth, rel=1e-3) and words in told


def test_a_coherent_link(cuda):
    cuda("coherent=1,atomics=all")
    link, words = gpu_link.find_gpu_link("gpu")
    assert link.bandwidth == 450e9 and "profile nvlink-c2c" in words  # compute capability 9.0


def test_a_space_takes_the_link_of_its_gpu(cuda):
    cuda("atomics=none,gpus=2")
    with hmm.AddressSpace(device="cuda:1") as space:
        assert space.link.name == "cuda:1" and space.link.atomics == NO_ATOMICS
    with hmm.AddressSpace(device="cuda:1", link="pcie3") as space:
        assert space.link.name == "pcie3"
    with hmm.AddressSpace(device="emulated") as space:
        assert space.link.name == "pcie4"
    with hmm.AddressSpace(device="emulated", link="gpu") as space:  # as that GPU would
        assert space.link.name == "cuda:0" and space.link.atomics == NO_ATOMICS


def test_no_such_gpu(cuda):
    cuda("gpus=1")
    with pytest.raises(hmm.UnsupportedError, match="no GPU 3 here"):
        hmm.AddressSpace(device="emulated", link="cuda:3")
    cuda("gpus=0")
    with pytest.raises(hmm.UnsupportedError, match="no GPU is visible"):
        hmm.AddressSpace(device="emulated", link="gpu")
    with pytest.raises(hmm.ArgumentError, match="'cuda:N'"):
        gpu_link.find_gpu_link("pcie4")


@pytest.mark.parametrize("option", [("--device", "cuda:0"), ("--link", "gpu")])
def test_the_command(cuda, option, tmp_path):
    cuda("")
    done = CliRunner().invoke(main, ["atomics", *option, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0 and "cuda:0  31.51 GB/s" in done.output
    assert ("atomics: as the driver says" in done.output) == (option[0] == "--device")
    (link,) = json.loads((tmp_path / "out.json").read_text())["links"]
    assert link["name"] == "cuda:0" and link["atomics"]["IntegerMin"] == []
    kernel = tmp_path / "k.cu"
    kernel.write_text('extern "C" __global__ void k(int* x) { atomicMin_system(x, 1); }\n')
    done = CliRunner().invoke(main, ["atomics", str(kernel), *option, "--fallback", "silent"])
    assert done.exit_code == 1 and "silent" in done.output


def test_the_command_without_a_gpu(cuda):
    cuda("gpus=0")
    done = CliRunner().invoke(main, ["atomics", "--device", "cuda"])
    assert done.exit_code == 1 and "no GPU is visible" in done.output
    done = CliRunner().invoke(main, ["atomics", "--device", "pcie4"])
    assert done.exit_code == 2 and "--device" in done.output
