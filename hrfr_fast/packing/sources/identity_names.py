"""Identities by the names of their folders: none in two splits, and warnings about names that hardly differ."""

import unicodedata
from collections.abc import Mapping

from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import few, one_line


def identity_key(name: str) -> str:
    """The normal form of a folder's name: accents composed (NFC), no spaces around it.

    The same name typed on macOS and on Linux may differ in both.
    """
    return unicodedata.normalize("NFC", name).strip()


def refuse_shared_identities(sources: Mapping[str, IdentitySource]) -> None:
    """Raise UsageError where an identity is in two splits, in whatever spelling: training and test would overlap."""
    names = sorted(sources)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            keys = {identity_key(name) for name in sources[second].identities}
            shared = sorted(name for name in sources[first].identities if identity_key(name) in keys)
            if shared:
                exact = set(sources[second].identities)
                shown = [one_line(name) if name in exact else f"{ascii(name)} in another spelling" for name in shared]
                raise UsageError(
                    f"{len(shared)} identities are in both {first} and {second} ({few(shown)}); every identity belongs"
                    " to one split, else training and evaluation overlap"
                )


def similar_identities(sources: Mapping[str, IdentitySource]) -> list[str]:
    """Warnings about identities whose names differ in case, encoding of accents or spaces alone: perhaps one person.

    Case alone is no reason to refuse: there are identity codes that need it.
    """
    spellings: dict[str, list[str]] = {}
    for split, source in sources.items():
        for name in source.identities:
            spellings.setdefault(identity_key(name).casefold(), []).append(f"{split}/{name}")
    groups = [group for group in spellings.values() if len(group) > 1]
    if not groups:
        return []
    shown = few([" and ".join(map(ascii, group)) for group in groups], "; ")
    return [
        f"{len(groups)} identities have several folders whose names differ in case, encoding of accents or spaces alone"
        f" ({shown}); they count as different people, put the pictures of one person into one folder"
    ]
