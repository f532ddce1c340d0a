"""Verification pairs of the pictures of a derived tree: half genuine, half impostor, each pair once."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import PAIR_FOLDER
from hrfr_fast.preparation.derive_settings import STUDY_PAIRS
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_bytes
from hrfr_fast.runtime.names import csv_line
from hrfr_fast.runtime.philox import DERIVATION, philox

NAME = "hres"
"""Of the pair set."""
SPLIT = "highres_eval"
GENUINE, IMPOSTOR, SHUFFLE = 2, 3, 4  # Philox views; people.py has 0 and 1
ENUMERATED = 1 << 20
"""Up to so many possible impostor pairs all are listed and ranked; of more, pairs are drawn until there are enough."""


def most_pairs(counts: NDArray[np.int64]) -> int:
    """How many pairs, half of them genuine, identities with so many pictures give, each once."""
    genuine = int((counts * (counts - 1) // 2).sum())
    pictures = int(counts.sum())
    return 2 * min(genuine, pictures * (pictures - 1) // 2 - genuine)


def check_pairs(counts: NDArray[np.int64], pairs: int | None) -> None:
    """Raise UsageError for a number of pairs that is odd, or more than can be made; says how many can."""
    most = most_pairs(counts)
    if pairs is not None and (pairs % 2 or pairs > most):
        raise UsageError(
            f"--pairs {pairs}: half of the pairs are genuine and half are not, each once, so that {len(counts):,}"
            f" identities of highres_eval give an even number up to {most:,}"
        )


def choose_pairs(
    counts: NDArray[np.int64], pairs: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs of pictures that are numbered identity after identity.

    Args:
        counts: [I], pictures of each identity.
        pairs: how many, an even number, or as many as can be made of the pictures; None: 6,000.

    Returns:
        int64 [P, 2] numbers of pictures, the lower first, and bool [P], True for one person; in random order.
    """
    genuine = _all_genuine(counts)
    people = np.repeat(np.arange(len(counts)), counts)
    wanted = min(STUDY_PAIRS if pairs is None else pairs, most_pairs(counts))
    half, total = wanted // 2, len(people) * (len(people) - 1) // 2
    ranked = np.argsort(_words(seed, GENUINE, len(genuine))[:, 0], kind="stable")
    both = np.concatenate([genuine[ranked[:half]], _impostors(people, half, total, seed)])
    order = np.argsort(_words(seed, SHUFFLE, wanted)[:, 0], kind="stable")
    return both[order], (np.arange(wanted) < half)[order]


def _all_genuine(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [G, 2]: every pair of two pictures of one identity."""
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    found = [np.empty((0, 2), np.int64)]
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        found.append(start + np.stack(np.triu_indices(count, 1), axis=1).astype(np.int64))
    return np.concatenate(found)


def _impostors(people: NDArray[np.int64], wanted: int, total: int, seed: int) -> NDArray[np.int64]:
    """int64 [wanted, 2]: pairs of pictures of two identities, none twice."""
    if total <= ENUMERATED:
        every = np.stack(np.triu_indices(len(people), 1), axis=1).astype(np.int64)
        every = every[people[every[:, 0]] != people[every[:, 1]]]
        return every[np.argsort(_words(seed, IMPOSTOR, len(every))[:, 0], kind="stable")[:wanted]]
    drawn = np.empty((0, 2), np.int64)
    at = 0
    while len(drawn) < wanted:
        words = _words(seed, IMPOSTOR, 2 * wanted, at)
        at += 2 * wanted
        both = np.sort((words[:, :2] % np.uint64(len(people))).astype(np.int64), axis=1)
        drawn = np.concatenate([drawn, both[people[both[:, 0]] != people[both[:, 1]]]])
        _, first = np.unique(drawn, axis=0, return_index=True)
        drawn = drawn[np.sort(first)]
    return drawn[:wanted]


def _words(seed: int, view: int, count: int, start: int = 0) -> NDArray[np.uint64]:
    return philox(seed, 0, np.arange(start, start + count), purpose=DERIVATION, view=view)


def write_pairs(tree: Path, pairs: int | None, seed: int) -> int:
    """Write the pair list of the pictures of ``tree/highres_eval``; returns the number of pairs.

    A picture is named by its path from the list: ``../highres_eval/<identity>/<picture>``.
    """
    folders = sorted(path for path in (tree / SPLIT).iterdir())
    pictures = [sorted(folder.iterdir()) for folder in folders]
    chosen, same = choose_pairs(np.array([len(one) for one in pictures], np.int64), pairs, seed)
    names = [f"../{SPLIT}/{path.parent.name}/{path.name}" for one in pictures for path in one]
    lines = (
        csv_line([names[first], names[second], int(alike)])
        for (first, second), alike in zip(chosen.tolist(), same.tolist(), strict=True)
    )
    if len(chosen):
        (tree / PAIR_FOLDER).mkdir(exist_ok=True)
        write_bytes(tree / PAIR_FOLDER / f"{NAME}.csv", "".join(lines).encode("utf-8", "surrogateescape"))
    return len(chosen)
