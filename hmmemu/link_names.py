"""What a link may be called, where an option asks for one: a profile, a file, a GPU's own. No state, so no lock."""

from __future__ import annotations

from hmmemu.errors import ArgumentError
from hmmemu.link import Link, profile


def find_link(link: Link | str) -> Link:
    """A link by itself, by the name of a profile, by the path of a TOML file (what ends in .toml), or a GPU's own.

    "gpu" is the link of the first GPU here, "cuda:N" that of another (gpu_link.py).

    Raises:
        ArgumentError: there is none; the message lists the profiles. Or the file is wrong.
        UnsupportedError: there is no such GPU.
    """
    if isinstance(link, Link):
        return link
    if not isinstance(link, str):
        raise ArgumentError(f"a link is a name or an hmm.Link, not {type(link).__name__}")
    if link.endswith(".toml"):
        return Link.load(link)
    if link == "gpu" or link.startswith("cuda"):
        from hmmemu.gpu_link import find_gpu_link

        return find_gpu_link(link)[0]
    return profile(link, ", a .toml file, or gpu")
