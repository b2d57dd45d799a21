"""The figures of the links that come with hmmemu, with their sources. Immutable, so no lock guards them."""

from __future__ import annotations

from hmmemu.capabilities import AtomicCapability, AtomicOperation, Capabilities, in_order

# Atomics. PCIe: PCI Express Base Specification, section "Atomic Operations (AtomicOps)": FetchAdd and Swap of 32 and
# 64 bits, CAS of 32, 64 and 128. NVLink and NVLink-C2C: "The Grace Hopper Superchip Architecture" (NVIDIA whitepaper,
# 2022) and the CUDA programming guide: hardware coherent, with native atomics of all kinds between CPU and GPU.
# CXL: Das Sharma, Blankenship, Berger, "An Introduction to the Compute Express Link (CXL) Interconnect" (2023): a
# device takes the cache line for itself (CXL.cache) and performs whatever operation it has there.
#
# Bandwidth, each way, 16 lanes: the lane rate after line coding, before packet headers; the specification's 8, 16, 32
# GT/s with 128b/130b, 64 GT/s with 242 of 256 bytes of a flit. CXL 2 runs on PCIe 5. NVLink: three NVLink 2.0 links of
# 25 GB/s between POWER9 and V100 (Lutz et al., "Pump Up the Volume", SIGMOD 2020). C2C: 450 GB/s (the whitepaper).
#
# Latency: 790 ns over PCIe 3 and 434 ns over NVLink 2.0, measured by Lutz et al.; later PCIe generations raise the rate
# of the lanes, and C2C is given NVLink's figure, for want of measurements that can be compared. CXL: 250 ns, of the
# order of what Sun et al., "Demystifying CXL Memory with Genuine CXL-Ready Systems and Devices" (MICRO 2023), measure.
#
# Fault cost: 20 to 50 us (Zheng et al., "Towards High Performance Paged Memory for GPUs", HPCA 2016), nearly all of it
# software, hence the same for every link; the lower end.

_O, _C = AtomicOperation, AtomicCapability
_BOTH = _C.SIGNED | _C.UNSIGNED
_WORDS_32_64 = _C.SCALAR_32 | _C.SCALAR_64

NO_ATOMICS = in_order({})
PCIE_ATOMICS = in_order(
    {
        _O.INTEGER_ADD: _BOTH | _C.REDUCTION | _WORDS_32_64,
        _O.EXCHANGE: _BOTH | _WORDS_32_64,
        _O.CAS: _BOTH | _WORDS_32_64 | _C.SCALAR_128,
    }
)
# Everything that CUDA C++ has, in the sizes in which it has it.
ALL_ATOMICS = in_order(
    {
        **{o: _BOTH | _C.REDUCTION | _WORDS_32_64 for o in (_O.INTEGER_ADD, _O.INTEGER_MIN, _O.INTEGER_MAX)},
        **{
            o: _C.UNSIGNED | _C.REDUCTION | _C.SCALAR_32 for o in (_O.INTEGER_INCREMENT, _O.INTEGER_DECREMENT)
        },
        **{o: _BOTH | _C.REDUCTION | _WORDS_32_64 for o in (_O.AND, _O.OR, _O.XOR)},
        _O.EXCHANGE: _BOTH | _WORDS_32_64 | _C.SCALAR_128,
        _O.CAS: _BOTH | _C.SCALAR_16 | _WORDS_32_64 | _C.SCALAR_128,
        _O.FLOAT_ADD: _C.REDUCTION | _C.SCALAR_16 | _WORDS_32_64 | _C.VECTOR_32X4,
        **{o: _C.REDUCTION | _WORDS_32_64 for o in (_O.FLOAT_MIN, _O.FLOAT_MAX)},
    }
)


def pcie_bandwidth(gigatransfers: float, lanes: int) -> float:
    """Bytes/s each way of PCIe lanes: 8b/10b below 8 GT/s, 128b/130b from there on, flits from 64 GT/s on."""
    coded = 8 / 10 if gigatransfers < 8 else 128 / 130 if gigatransfers < 64 else 242 / 256
    return lanes * gigatransfers * 1e9 / 8 * coded


Figures = tuple[str, float, float, float, Capabilities]  # the arguments of a `Link`, in its order


def _pcie(
    name: str, gigatransfers: float, atomics: Capabilities = PCIE_ATOMICS, latency: float = 790e-9
) -> Figures:
    return name, pcie_bandwidth(gigatransfers, 16), latency, 20e-6, atomics


PROFILES: tuple[Figures, ...] = (
    _pcie("pcie3-noatomics", 8, NO_ATOMICS),
    _pcie("pcie3", 8),
    _pcie("pcie4", 16),
    _pcie("pcie5", 32),
    _pcie("pcie6", 64),
    _pcie("cxl", 32, ALL_ATOMICS, latency=250e-9),
    ("nvlink", 75e9, 434e-9, 20e-6, ALL_ATOMICS),
    ("nvlink-c2c", 450e9, 434e-9, 20e-6, ALL_ATOMICS),
)
