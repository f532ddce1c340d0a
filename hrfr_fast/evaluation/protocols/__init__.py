"""Public test protocols: one file each, which reads the published layout into the internal form (``form.py``).

A protocol's file has ``NAME``, ``TITLE``, ``LAYOUT``, ``recognises`` and ``read``, see ``ProtocolFile``; its module is
listed in ``MODULES``.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few

if TYPE_CHECKING:
    from hrfr_fast.evaluation.protocols.form import TestSet

MODULES = {
    "bin": "bin_file", "xqlfw": "xqlfw", "lfw": "lfw", "rfw": "rfw", "tinyface": "tinyface", "survface": "survface",
    "scface": "scface", "ijbb": "ijbb", "ijbc": "ijbc",
}  # fmt: skip
"""Name of a protocol -> its module in this folder, in the order in which a folder's layout is tried."""


class ProtocolFile(Protocol):
    """What a protocol's file offers."""

    NAME: str
    """As given to --protocol."""
    TITLE: str
    """One line for listings."""
    LAYOUT: str
    """What ``read`` expects to find, in words that end a sentence beginning with "expected"."""

    def recognises(self, place: Path) -> bool:
        """Whether ``place``, an existing file or folder, has this protocol's layout. Reads names only."""

    def read(self, place: Path, pictures: Path | None) -> "Sequence[TestSet]":
        """The test sets at ``place``, at least one; pictures are not touched.

        Args:
            pictures: the folder of pictures where it is not the protocol's usual place.

        Raises:
            UsageError: what is there is not what the protocol publishes; the message names the file and line.
        """


def protocol_named(name: str) -> ProtocolFile:
    """The protocol called ``name``. Raises UsageError listing those there are."""
    if name not in MODULES:
        raise UsageError(f"there is no protocol {name!r}; there are {', '.join(MODULES)}")
    return cast(ProtocolFile, import_module(f"hrfr_fast.evaluation.protocols.{MODULES[name]}"))


def protocol_at(name: str | None, place: Path) -> ProtocolFile:
    """The protocol ``name``, whose layout ``place`` has; None: whichever has it.

    Raises:
        UsageError: no such protocol or place, or another layout: what is expected, and what is there.
    """
    if not place.exists():
        raise UsageError(f"{place}: no such file or folder")
    from hrfr_fast.format.manifest import NAME as MANIFEST  # NumPy: not for a help text

    if (place / MANIFEST).is_file():
        raise UsageError(
            f"{place} holds packed faces, and no public test set: `hrfr-fast evaluate RUN --pairs {place}` judges by"
            " their pairs"
        )
    protocol = protocol_named(name) if name else _recognised(place)
    if not protocol.recognises(place):
        raise UsageError(f"{place} is not laid out as {protocol.NAME}: expected {protocol.LAYOUT}; {_found(place)}")
    return protocol


def _recognised(place: Path) -> ProtocolFile:
    for name in MODULES:
        if protocol_named(name).recognises(place):
            return protocol_named(name)
    layouts = [f"{name}: {protocol_named(name).LAYOUT}" for name in MODULES]
    raise UsageError(f"{place} has no protocol's layout; {_found(place)}. Known are\n  " + "\n  ".join(layouts))


def _found(place: Path) -> str:
    """What is at ``place``, as the end of a sentence."""
    if place.is_file():
        return "it is a file"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in place.iterdir())
    return f"there is {few(names)}" if names else "it is empty"
