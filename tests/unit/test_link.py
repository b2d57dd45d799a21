"""Links: what each profile carries, beside the table of PCIe AtomicOps and of CUDA's operations; files; bad input."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

import hmmemu as hmm
from hmmemu.link_figures import ALL_ATOMICS, NO_ATOMICS, PCIE_ATOMICS
from hmmemu.link_names import find_link

O, C = hmm.AtomicOperation, hmm.AtomicCapability  # noqa: E741
PROFILES = {link.name: link for link in hmm.links()}
PCIE = ("pcie3", "pcie4", "pcie5", "pcie6")
COHERENT = ("nvlink", "nvlink-c2c", "cxl")

# Operation, type: bits, signed, lanes; whether PCIe's AtomicOps carry it. Those of CUDA C++ that exist, all of them.
CUDA = [
    *((O.INTEGER_ADD, bits, signed, 1, True) for bits in (32, 64) for signed in (False, True)),
    *((O.EXCHANGE, bits, False, 1, bits < 128) for bits in (32, 64, 128)),
    *((O.CAS, bits, False, 1, bits > 16) for bits in (16, 32, 64, 128)),
    *(
        (operation, bits, signed, 1, False)
        for operation in (O.INTEGER_MIN, O.INTEGER_MAX, O.AND, O.OR, O.XOR)
        for bits in (32, 64)
        for signed in (False, True)
    ),
    *((operation, 32, False, 1, False) for operation in (O.INTEGER_INCREMENT, O.INTEGER_DECREMENT)),
    *((O.FLOAT_ADD, bits, False, 1, False) for bits in (16, 32, 64)),
    (O.FLOAT_ADD, 16, False, 2, False),  # __half2, __nv_bfloat162
    (O.FLOAT_ADD, 32, False, 4, False),  # float4
]


def test_the_profiles_of_the_issue_are_there():
    assert set(PROFILES) == {"pcie3-noatomics", *PCIE, *COHERENT}
    assert [find_link(name) for name in PROFILES] == list(hmm.links())


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("operation", "bits", "signed", "lanes", "over_pcie"), CUDA)
def test_what_is_native(name, operation, bits, signed, lanes, over_pcie):
    expected = name in COHERENT or (name in PCIE and over_pcie)
    assert PROFILES[name].native(operation, bits, signed=signed, lanes=lanes) is expected
    route = PROFILES[name].route(operation, bits, signed=signed, lanes=lanes)
    assert route is (hmm.Route.NATIVE if expected else hmm.Route.MIGRATE)


def test_sizes_that_no_link_has():
    for link in hmm.links():
        assert not link.native(O.INTEGER_ADD, 8) and not link.native(O.INTEGER_ADD, 128)
        assert not link.native(O.INTEGER_ADD, 32, lanes=4)


def test_the_enumerations_have_cudas_values():
    """Those of cudaAtomicOperation and cudaAtomicOperationCapability in driver_types.h of CUDA 13."""
    names = ["IntegerAdd", "IntegerMin", "IntegerMax", "IntegerIncrement", "IntegerDecrement", "And", "Or", "XOR",
             "Exchange", "CAS", "FloatAdd", "FloatMin", "FloatMax"]  # fmt: skip
    assert [operation.cuda_name for operation in O] == names
    assert [operation.value for operation in O] == list(range(13))
    flags = ["Signed", "Unsigned", "Reduction", "Scalar32", "Scalar64", "Scalar128", "Vector32x4"]
    assert [C(1 << i).cuda_names for i in range(7)] == [[name] for name in flags]


def test_bandwidth_and_latency_are_in_the_right_order():
    pcie = [PROFILES[name].bandwidth for name in PCIE]
    assert pcie == sorted(pcie) and pcie[1] == 2 * pcie[0] and pcie[2] == 2 * pcie[1]
    assert pcie[0] == pytest.approx(15.754e9, rel=1e-3)  # 16 lanes, 8 GT/s, 128b/130b
    assert PROFILES["nvlink-c2c"].bandwidth > PROFILES["nvlink"].bandwidth > pcie[2]
    assert PROFILES["nvlink"].latency < PROFILES["pcie3"].latency < PROFILES["pcie3"].fault_cost


# -- fallbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fallback", list(hmm.Fallback))
def test_a_fallback_is_taken_only_for_what_is_not_native(fallback):
    link = PROFILES["pcie4"]
    assert link.route(O.CAS, 64, fallback=fallback) is hmm.Route.NATIVE
    assert link.route(O.INTEGER_MIN, 32, fallback=fallback).value == fallback.value
    assert link.route(O.INTEGER_MIN, 32, fallback=fallback.value).value == fallback.value
    assert fallback.words == hmm.Route(fallback.value).words != ""


@pytest.mark.parametrize(
    ("operation", "bits", "route"),
    [
        (O.CAS, 16, "cas-loop"),  # by the 32-bit word around it
        (O.FLOAT_ADD, 64, "cas-loop"),
        (O.EXCHANGE, 128, "cas-loop"),
    ],
)
def test_a_cas_loop_needs_a_native_cas(operation, bits, route):
    assert PROFILES["pcie3"].route(operation, bits, fallback="cas-loop").value == route
    assert PROFILES["pcie3-noatomics"].route(operation, bits, fallback="cas-loop") is hmm.Route.FAULT


def test_verdicts():
    words = {route.value: route.verdict for route in hmm.Route}
    assert words == {
        "local": "native", "device": "migrations", "native": "native", "migrate": "migrations", "exclusive": "migrations",
        "cas-loop": "emulated", "fault": "broken", "silent": "broken",
    }  # fmt: skip
    assert [route.value for route in hmm.Route if route.is_broken] == ["fault", "silent"]


def test_an_unknown_fallback_or_link():
    with pytest.raises(
        hmm.ArgumentError, match="no fallback 'nosuch'; use one of migrate, exclusive, cas-loop"
    ):
        PROFILES["pcie4"].route(O.CAS, 16, fallback="nosuch")
    with pytest.raises(hmm.ArgumentError, match="no link 'pcie9'; use one of pcie3-noatomics, pcie3"):
        find_link("pcie9")
    with pytest.raises(hmm.ArgumentError, match=r"a name or an hmm\.Link, not int"):
        find_link(4)


# -- the user's own ---------------------------------------------------------------------------------------------------


def own(**changes):
    values = {"name": "mine", "bandwidth": 1e9, "latency": 1e-6, "fault_cost": 0, "atomics": NO_ATOMICS}
    return hmm.Link(**(values | changes))


def test_a_link_of_ones_own():
    table = {O.INTEGER_MIN: C.UNSIGNED | C.SCALAR_32, O.FLOAT_ADD: C.SCALAR_32 | C.VECTOR_32X4}
    link = own(atomics=hmm.Link.capabilities(table))
    assert link.native(O.INTEGER_MIN, 32) and not link.native(O.INTEGER_MIN, 32, signed=True)
    assert link.native(O.FLOAT_ADD, 32, lanes=2) and not link.native(O.FLOAT_ADD, 64)
    assert find_link(link) is link and link == pickle.loads(pickle.dumps(link)) and hash(link)
    with pytest.raises(FrozenInstanceError):
        link.latency = 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "Link.name is a string that is not empty"),
        ({"bandwidth": 0}, "bandwidth is a number above 0, not 0"),
        ({"bandwidth": float("inf")}, "bandwidth is a number above 0, not inf"),
        ({"latency": -1}, "latency is a number 0 or more, not -1"),
        ({"fault_cost": "20us"}, "fault_cost is a number 0 or more, not '20us'"),
        ({"latency": True}, "latency is a number"),
        ({"atomics": (C.SIGNED,)}, "a tuple of 13 capabilities"),
        ({"atomics": dict.fromkeys(O, C(0))}, "a tuple of 13 capabilities"),
        ({"atomics": (8,) * 13}, "IntegerAdd is an AtomicCapability, not 8"),
        (
            {"atomics": hmm.Link.capabilities({O.AND: C.SIGNED})},
            "And has flags ['Signed'] but no size; add one of",
        ),
    ],
)
def test_values_that_cannot_be_meant(changes, words):
    with pytest.raises(hmm.ArgumentError) as caught:
        own(**changes)
    assert words in str(caught.value)


def test_capabilities_of_something_else():
    with pytest.raises(hmm.ArgumentError, match="'CAS' is not an AtomicOperation: INTEGER_ADD"):
        hmm.Link.capabilities({"CAS": C.SCALAR_32})


# -- files ------------------------------------------------------------------------------------------------------------

WHOLE = """
name = "mine"
bandwidth = 24e9
latency = 1.2e-6
fault_cost = 30e-6
[atomics]
IntegerAdd = ["Signed", "Unsigned", "Reduction", "Scalar32", "Scalar64"]
CAS = ["Scalar32", "Scalar16"]
XOR = []
"""


def write(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(text)
    return str(path)


def test_a_whole_file(tmp_path):
    link = find_link(write(tmp_path, WHOLE))
    assert (link.name, link.bandwidth, link.latency, link.fault_cost) == ("mine", 24e9, 1.2e-6, 30e-6)
    assert link.native(O.CAS, 16) and not link.native(O.CAS, 64) and not link.native(O.XOR, 32)
    assert link.atomics[O.INTEGER_ADD] == PCIE_ATOMICS[O.INTEGER_ADD]


def test_a_file_that_changes_a_profile(tmp_path):
    link = hmm.Link.load(write(tmp_path, "base = 'nvlink'\nlatency = 1e-6"))
    assert link == replace(PROFILES["nvlink"], name="own", latency=1e-6) and link.atomics == ALL_ATOMICS


@pytest.mark.parametrize("link", hmm.links(), ids=lambda link: link.name)
def test_what_is_printed_can_be_read(link, tmp_path):
    said = link.to_dict()
    lines = [f"{key} = {said[key]!r}" for key in ("name", "bandwidth", "latency", "fault_cost")]
    table = [f"{operation} = {flags}" for operation, flags in said["atomics"].items()]
    assert hmm.Link.load(write(tmp_path, "\n".join([*lines, "[atomics]", *table]))) == link


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is not TOML"),
        ("latency = 1e-6", "bandwidth, fault_cost, atomics missing; give them, or a base"),
        ("base = 'pcie9'", "there is no link 'pcie9'"),
        ("base = 'own.toml'", "there is no link 'own.toml'; use one of pcie3-noatomics"),
        ("base = 'pcie4'\nspeed = 3", "unknown keys ['speed']; there are name, base, bandwidth"),
        ("base = 'pcie4'\nlatency = '1us'", "latency is a number 0 or more, not '1us'"),
        ("base = 'pcie4'\natomics = 3", "[atomics] is a table"),
        (
            "base = 'pcie4'\n[atomics]\nAdd = ['Scalar32']",
            "[atomics] Add: no such operation; there are IntegerAdd",
        ),
        (
            "base = 'pcie4'\n[atomics]\nCAS = 'Scalar32'",
            "[atomics] CAS is a list of capabilities, not 'Scalar32'",
        ),
        (
            "base = 'pcie4'\n[atomics]\nCAS = ['Scalar8']",
            "no capability 'Scalar8'; there are Signed, Unsigned",
        ),
        ("base = 'pcie4'\n[atomics]\nCAS = ['Signed']", "CAS has flags ['Signed'] but no size"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(hmm.ArgumentError) as caught:
        find_link(path)
    assert words in str(caught.value) and path in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(hmm.ArgumentError, match=r"nosuch\.toml cannot be read: .*No such file"):
        find_link(str(tmp_path / "nosuch.toml"))
