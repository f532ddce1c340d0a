"""Which identities of a source go to which split, and which of their pictures: a function of the seed alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.preparation.derive_settings import SHARE, STUDY, DeriveSettings
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.philox import DERIVATION, philox
from hrfr_fast.runtime.words import counted

LEAST = 2
"""Fewest identities of a split: with one there is nothing to tell apart."""
IDENTITIES, PICTURES = 0, 1  # Philox views: the order of the identities, and of each one's pictures


class Part(NamedTuple):
    """The identities of one split, and their pictures."""

    identities: NDArray[np.int64]
    """[I] numbers in the source, ascending."""
    pictures: NDArray[np.int64]
    """[N] numbers in the source, identity after identity, ascending within each."""
    starts: NDArray[np.int64]
    """[I + 1] where each identity begins in ``pictures``."""

    def pictures_of(self, position: int) -> NDArray[np.int64]:
        """Pictures of the identity at ``position``."""
        return self.pictures[self.starts[position] : self.starts[position + 1]]


def divide(labels: NDArray[np.integer], identities: int, settings: DeriveSettings, source: Path) -> dict[str, Part]:
    """The parts of the splits that are wanted, no identity in two of them.

    Args:
        labels: [N], the identity of each picture of the source.
        identities: how many the source names.
        source: named in messages.

    Raises:
        UsageError: too few identities with enough pictures; says how many there are and what fits.
    """
    counts = np.bincount(labels, minlength=identities)
    wanted = _wanted(counts, settings)
    taken = _take(counts, wanted, settings)
    for split, count in wanted.items():
        if len(taken[split]) < count or 0 < count < LEAST:
            raise UsageError(_too_small(counts, settings, source))
    parts = {split: part_of(labels, taken[split], settings, split) for split, count in wanted.items() if count}
    if not parts:
        raise UsageError("every split is 0 identities: there is nothing to derive")
    return parts


def _wanted(counts: NDArray[np.int64], settings: DeriveSettings) -> dict[str, int]:
    """How many identities each split shall have."""
    wanted = {"highres": settings.highres, "highres_eval": settings.highres_eval}
    for split, count in wanted.items():
        if count is None:
            enough = int((counts >= settings.pictures_of(split)[0]).sum())
            wanted[split] = max(LEAST, min(STUDY[split], enough // SHARE))
    known = {split: count or 0 for split, count in wanted.items()}
    if settings.lowres is not None:
        return {"lowres": settings.lowres, **known}
    left = len(_take(counts, {**known, "lowres": len(counts)}, settings)["lowres"])
    return {"lowres": max(LEAST, min(STUDY["lowres"], left)), **known}


def _take(
    counts: NDArray[np.int64], wanted: Mapping[str, int], settings: DeriveSettings
) -> dict[str, NDArray[np.int64]]:
    """Up to ``wanted`` identities for each split, those that need the most pictures first."""
    words = philox(settings.seed, 0, np.arange(len(counts)), purpose=DERIVATION, view=IDENTITIES)[:, 0]
    order = np.argsort(words, kind="stable")
    taken = {}
    for split in sorted(wanted, key=lambda name: (-settings.pictures_of(name)[0], name)):
        fit = counts[order] >= settings.pictures_of(split)[0]
        chosen = order[np.flatnonzero(fit)[: wanted[split]]]
        taken[split] = np.sort(chosen)
        order = order[~np.isin(order, chosen)]
    return taken


def part_of(labels: NDArray[np.integer], identities: NDArray[np.int64], settings: DeriveSettings, split: str) -> Part:
    """``identities`` with up to the most pictures that ``split`` takes of each, by the seed."""
    most = settings.pictures_of(split)[1]
    mine = np.flatnonzero(np.isin(labels, identities))
    words = philox(settings.seed, 0, mine, purpose=DERIVATION, view=PICTURES)[:, 0]
    by_identity = np.lexsort((words, labels[mine]))
    sorted_labels = labels[mine][by_identity]
    first = np.searchsorted(sorted_labels, sorted_labels, side="left")
    chosen = mine[by_identity[np.arange(len(mine)) - first < most]]
    chosen = chosen[np.lexsort((chosen, labels[chosen]))]
    starts = np.searchsorted(labels[chosen], identities, side="left")
    return Part(identities, chosen, np.append(starts, len(chosen)).astype(np.int64))


def _too_small(counts: NDArray[np.int64], settings: DeriveSettings, source: Path) -> str:
    """The message for a source without enough identities: what there is, what was asked for, what fits."""
    there = int((counts > 0).sum())
    lines = [f"{source} is too small: it has {counted(there, 'identity')}"]
    for split in ("highres", "highres_eval", "lowres"):
        need, asked = settings.pictures_of(split)[0], getattr(settings, split)
        have = int((counts >= need).sum())
        wish = f"{asked:,} asked for" if asked is not None and asked != 1 else f"at least {LEAST} needed"
        lines.append(f"{split} takes identities with {need} or more pictures ({have:,} there; {wish})")
    free = settings.replaced(lowres=None, highres=None, highres_eval=None)
    fits = _wanted(counts, free)
    if all(len(found) >= fits[split] for split, found in _take(counts, fits, free).items()):
        flags = " ".join(f"--{split.replace('_', '-')} {count}" for split, count in fits.items())
        lines.append(f"no identity is in two splits. This fits: {flags}")
    else:
        lines.append(
            "no identity is in two splits. Ask for fewer pictures an identity (--highres-pictures, --eval-pictures,"
            " --fewest), or leave a split out (--highres 0)"
        )
    return "; ".join(lines)
