"""Identities, overlap and defects of a packed pair set, entered in its manifest entry."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.format.names import without_prefix
from hrfr_fast.format.reader import PairSet, Split, pair_set_of
from hrfr_fast.packing.identity_linking import Identities, recover
from hrfr_fast.packing.pack_shard import FinishedShard, save_identities
from hrfr_fast.packing.sources.candidates import PairCandidates
from hrfr_fast.packing.sources.identity_names import identity_key


def identify(
    candidates: PairCandidates, shard: FinishedShard, place: Path, work: Path, splits: Mapping[str, Split], data: Path
) -> None:
    """Find the identities of one pair set by ``splits`` and labels; write them to its entry and to ``work``.

    Args:
        candidates: the source of the shard.
        place: the directory that the shard lies in.
        data: the tree that paths of pictures are looked up in.

    Raises:
        UsageError: the channels of a carray are in the other order.
    """
    entry = shard.entry
    pairs = pair_set_of(place, without_prefix(candidates.name), entry)
    lost = (candidates.count - pairs.split.samples) // 2 + len(candidates.malformed)
    if pairs.kind != "test":  # Its identities are known, and in no split.
        recovered = recover(pairs.split, pairs.same, {}, _own_identities(pairs))
        entry["defects"] = asdict(replace(recovered.defects, left_out=lost))
        return
    places, folders = _kept_places(candidates, shard.rejected, data)
    recovered = recover(pairs.split, pairs.same, splits, places)
    candidates.refuse_other_order(recovered.found, recovered.defects.swapped_channels)
    name_overlap = _name_overlap(folders, recovered, splits)
    entry["identity_coverage"] = recovered.coverage
    entry["overlap"] = recovered.overlap
    entry["contradictions"] = recovered.defects.different_known_same
    entry["defects"] = asdict(replace(recovered.defects, name_overlap=name_overlap, left_out=lost))
    entry["identities_file"] = entry["identities_digest"] = None
    if recovered.people is not None:
        save_identities(work, entry, recovered.people, recovered.coverage)


def look_up(pairs: PairSet, splits: Mapping[str, Split]) -> PairSet:
    """``pairs`` of one pack with its overlap with the ``splits`` of another, and identities unless it knows more."""
    known = _own_identities(pairs) if pairs.kind != "test" else None
    recovered = recover(pairs.split, pairs.same, splits, known)
    exchanged = max(pairs.defects.swapped_channels, recovered.defects.swapped_channels)
    if pairs.kind == "test" and recovered.coverage >= pairs.identity_coverage:
        defects = replace(recovered.defects, swapped_channels=exchanged, left_out=pairs.defects.left_out)
        looked_up = replace(pairs, overlap=recovered.overlap, defects=defects, identity_coverage=recovered.coverage)
        looked_up.__dict__["identities"] = recovered.people  # The cached property keeps it there.
        return looked_up
    shown = recovered.defects.identity_overlap
    defects = replace(pairs.defects, swapped_channels=exchanged, identity_overlap=shown, name_overlap={})
    return replace(pairs, overlap=recovered.overlap, defects=defects)


def _own_identities(pairs: PairSet) -> list[str | None]:
    """A place for every picture of a pair set whose identities are all known."""
    assert pairs.identities is not None
    return [f"{pairs.split.name}/{identity}" for identity in pairs.identities.tolist()]


def _kept_places(
    candidates: PairCandidates, rejected: list[dict[str, Any]], data: Path
) -> tuple[list[str | None] | None, list[str]]:
    """(place in the tree, name of the folder) of every packed picture of a list; (None, []) for arrays."""
    places, folders = candidates.places(data), candidates.folders()
    if places is None:
        return None, []
    kept = np.ones(candidates.count // 2, bool)
    kept[[line["pair"] for line in rejected if "pair" in line]] = False
    pictures = np.flatnonzero(np.repeat(kept, 2)).tolist()
    return [places[i] for i in pictures], [folders[i].name for i in pictures]


def _name_overlap(folders: list[str], recovered: Identities, splits: Mapping[str, Split]) -> dict[str, int]:
    """Training split -> how many pictures lie in a folder named like one of its identities and were not found in it."""
    keys, overlap = [identity_key(name) for name in folders], {}
    for split, shown in recovered.shown.items() if keys else ():
        trained = {identity_key(name) for name in splits[split].identity_names}
        overlap[split] = sum(key in trained and not known for key, known in zip(keys, shown.tolist(), strict=True))
    return overlap
