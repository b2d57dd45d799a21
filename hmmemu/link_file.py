"""Links in TOML files (docs/atomics.md): what one says, checked as far as its form goes. No state, so no lock."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hmmemu.capabilities import AtomicCapability, AtomicOperation, Capabilities, in_order
from hmmemu.errors import ArgumentError

_FIELDS = ("bandwidth", "latency", "fault_cost")


def read_link_file(path: str | Path) -> dict[str, Any]:
    """The arguments of `Link` that a file gives, and `base`, the profile that gives the others, if it names one.

    Raises:
        ArgumentError: the file cannot be read, is not TOML, or has other keys than a link; `path` is in the message.
    """
    try:
        said = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"link file {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(f"link file {path} is not TOML: {error}") from None
    try:
        return {"name": Path(path).stem, **_checked(said)}
    except ArgumentError as error:
        raise ArgumentError(f"link file {path}: {error}") from None


def _checked(said: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(said.keys() - {"name", "base", "atomics", *_FIELDS})
    if unknown:
        raise ArgumentError(
            f"unknown keys {unknown}; there are name, base, {', '.join(_FIELDS)} and [atomics]"
        )
    if "atomics" in said:
        said["atomics"] = _atomics(said["atomics"])
    missing = [key for key in (*_FIELDS, "atomics") if key not in said]
    if missing and "base" not in said:
        raise ArgumentError(f"{', '.join(missing)} missing; give them, or a base (base = 'pcie4')")
    return said


def _atomics(table: object) -> Capabilities:
    if not isinstance(table, dict):
        raise ArgumentError(
            "[atomics] is a table: IntegerAdd = ['Signed', 'Unsigned', 'Scalar32', 'Scalar64']"
        )
    operations = {o.cuda_name: o for o in AtomicOperation}
    capabilities = {flag.cuda_names[0]: flag for flag in AtomicCapability}
    found = {}
    for name, flags in table.items():
        if name not in operations:
            raise ArgumentError(f"[atomics] {name}: no such operation; there are {', '.join(operations)}")
        if not isinstance(flags, list):
            raise ArgumentError(f"[atomics] {name} is a list of capabilities, not {flags!r}")
        for flag in flags:
            if flag not in capabilities:
                raise ArgumentError(
                    f"[atomics] {name}: no capability {flag!r}; there are {', '.join(capabilities)}"
                )
        found[operations[name]] = AtomicCapability(sum(capabilities[flag] for flag in set(flags)))
    return in_order(found)
