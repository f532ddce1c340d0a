"""What the splits tell of a packed pair set: identities, overlap and defects, entered in its manifest entry."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.format.reader import PairSet, Split, pair_set_of
from hrfr_fast.packing.bcolz_arrays import CHANNELS, BcolzPairs
from hrfr_fast.packing.identity_linking import Identities, recover
from hrfr_fast.packing.pack_shard import Finished, save_identities
from hrfr_fast.packing.pairs import PathPairs
from hrfr_fast.packing.sources import Candidates, identity_key
from hrfr_fast.runtime.errors import UsageError


def identify(
    candidates: Candidates, shard: Finished, place: Path, work: Path, *, splits: Mapping[str, Split], data: Path
) -> None:
    """Look the pictures of one pair set up among ``splits``; write what is found to its entry and to ``work``.

    Args:
        candidates: what the shard was packed from.
        shard: its entry and refusals.
        place: the directory that the shard lies in.
        data: the tree that paths of pictures are looked up in.

    Raises:
        UsageError: the channels of a carray are in the other order.
    """
    assert isinstance(candidates, PathPairs | BcolzPairs)
    entry = shard.entry
    pairs = pair_set_of(place, candidates.name.removeprefix("pairs-"), entry)
    lost = (candidates.count - pairs.split.samples) // 2 + len(candidates.malformed)
    if pairs.kind != "test":  # made of identities that are known and in no split
        found = recover(pairs.split, pairs.same, {}, _own_identities(pairs))
        entry["defects"] = asdict(replace(found.defects, left_out=lost))
        return
    places, named = _by_path(candidates, shard.refusals, data)
    found = recover(pairs.split, pairs.same, splits, places)
    if isinstance(candidates, BcolzPairs):
        _refuse_other_order(candidates, found)
    name_overlap = _name_overlap(named, found, splits)
    entry["identity_coverage"] = found.coverage
    entry["overlap"] = found.overlap
    entry["contradictions"] = found.defects.different_known_same
    entry["defects"] = asdict(replace(found.defects, name_overlap=name_overlap, left_out=lost))
    entry["identities_file"] = entry["identities_digest"] = None
    if found.clusters is not None:
        save_identities(work, entry, found.clusters, found.coverage)


def look_up(pairs: PairSet, splits: Mapping[str, Split]) -> PairSet:
    """``pairs`` of one pack with what the ``splits`` of another tell: overlap, and identities unless it knows more."""
    known = _own_identities(pairs) if pairs.kind != "test" else None
    found = recover(pairs.split, pairs.same, splits, known)
    exchanged = max(pairs.defects.swapped_channels, found.defects.swapped_channels)
    if pairs.kind == "test" and found.coverage >= pairs.identity_coverage:
        defects = replace(found.defects, swapped_channels=exchanged, left_out=pairs.defects.left_out)
        looked_up = replace(pairs, overlap=found.overlap, defects=defects, identity_coverage=found.coverage)
        looked_up.__dict__["identities"] = found.clusters  # where the cached property keeps it
        return looked_up
    people = found.defects.identity_overlap
    defects = replace(pairs.defects, swapped_channels=exchanged, identity_overlap=people, name_overlap={})
    return replace(pairs, overlap=found.overlap, defects=defects)


def _own_identities(pairs: PairSet) -> list[str | None]:
    """A place for every picture of a pair set whose identities are all known."""
    assert pairs.identities is not None
    return [f"{pairs.split.name}/{identity}" for identity in pairs.identities.tolist()]


def _by_path(
    candidates: Candidates, refusals: list[dict[str, Any]], data: Path
) -> tuple[list[str | None] | None, list[str]]:
    """(place in the tree, name of the folder) of every packed picture of a list; (None, []) for arrays."""
    if not isinstance(candidates, PathPairs):
        return None, []
    kept = np.ones(candidates.count // 2, bool)
    kept[[line["pair"] for line in refusals if "pair" in line]] = False
    pictures = np.flatnonzero(np.repeat(kept, 2)).tolist()
    places, folders = candidates.places(data), candidates.folders()
    return [places[i] for i in pictures], [folders[i].name for i in pictures]


def _name_overlap(named: list[str], found: Identities, splits: Mapping[str, Split]) -> dict[str, int]:
    """Training split -> how many pictures lie in a folder named like one of its identities and were not found in it."""
    keys, overlap = [identity_key(name) for name in named], {}
    for split, shown in found.shown.items() if keys else ():
        trained = {identity_key(name) for name in splits[split].identity_names}
        overlap[split] = sum(key in trained and not known for key, known in zip(keys, shown.tolist(), strict=True))
    return overlap


def _refuse_other_order(carray: BcolzPairs, found: Identities) -> None:
    exchanged = found.defects.swapped_channels
    if exchanged <= found.found:
        return
    other = next(order for order in CHANNELS if order != carray.channels)
    name = carray.name.removeprefix("pairs-")
    raise UsageError(
        f"{carray.directory}: read as {other.upper()}, {exchanged:,} of its {carray.count:,} pictures are pictures of"
        f" the splits, read as {carray.channels.upper()} {found.found:,}: give --carray-channels {name}={other}"
    )
