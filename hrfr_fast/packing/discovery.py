"""What is to be packed, and how: the settings, and the candidates they make of a data tree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hrfr_fast.format import beton
from hrfr_fast.packing.bcolz_arrays import CHANNELS, BcolzPairs
from hrfr_fast.packing.decode import usual_size
from hrfr_fast.packing.left_out import PAIR_FOLDER, outside_splits, split_folders
from hrfr_fast.packing.pair_folder import entries_on_the_way, misplaced
from hrfr_fast.packing.pairs import choose_identities, development_pairs, find_pair_sets, picture_folders
from hrfr_fast.packing.sources import (
    Candidates,
    FolderCandidates,
    Listing,
    list_split,
    refuse_shared_identities,
    similar_identities,
)
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line

SIZES = {"lowres": 36, "highres": 144}
EVALUATION_SIZES = (36, 144)
TRAINING = ("lowres", "highres")
AUTO_RAW_BYTES = 8_000_000_000  # auto: a split larger than this as raw pixels is stored as JPEG


@dataclass(frozen=True)
class Request:
    """The settings that shape the output; all of them are in the manifest. Raises UsageError for a wrong one."""

    encoding: str = "auto"
    dev_identities: int = 0
    resize: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    page_size: int = beton.PAGE_SIZE
    carray_channels: Mapping[str, str] = field(default_factory=lambda: {"": "bgr"})
    """Order of the channels of bcolz carrays, "bgr" or "rgb", by pair set; "" stands for all others."""

    def __post_init__(self) -> None:
        if self.encoding not in ("auto", "raw", "jpeg"):
            raise UsageError(f"--encoding {self.encoding}: choose auto, raw or jpeg")
        if self.dev_identities < 0:
            raise UsageError(f"--dev-identities {self.dev_identities}: it takes 0 or more")
        if any(not 1 <= size <= 4096 for size in self.sizes.values()):
            raise UsageError("picture sizes must be within 1..4096 pixels")
        for order in self.carray_channels.values():
            if order not in CHANNELS:
                raise UsageError(f"--carray-channels {order}: choose {' or '.join(CHANNELS)}, or NAME=rgb for one set")


def tree_candidates(data: Path, out: Path, request: Request) -> tuple[list[Candidates], list[str]]:
    """The splits, development pairs and pair sets of the tree ``data``, and warnings about them.

    Raises:
        UsageError: no split, a misspelt one, one laid out otherwise; an identity in two splits, a broken pair set.
        HrfrError: a folder that cannot be read.
    """
    listings = {name: list_split(data / name) for name in split_folders(data)}
    refuse_shared_identities(listings)
    warnings = [line for name, listing in listings.items() for line in _warnings(name, listing)]
    warnings += similar_identities(listings)
    splits: list[Candidates] = []
    development: list[Candidates] = []
    for name, listing in listings.items():
        training = listing
        if request.dev_identities and name in TRAINING:
            aside = choose_identities(listing, request.dev_identities, name)
            training = listing.select(sorted(set(range(len(listing.identities))) - set(aside)))
            size = request.sizes.get(name, SIZES[name])
            development.append(development_pairs(name, data / name, listing.select(aside), size))
        splits.append(FolderCandidates(name, data / name, training, 0))
    pairs, left_out = find_pair_sets(data / PAIR_FOLDER, request.carray_channels)
    of_pairs = entries_on_the_way(data, picture_folders(pairs))
    warnings += outside_splits(data, out, of_pairs) + left_out + misplaced(data, PAIR_FOLDER)
    return _settled([*splits, *development, *pairs], request), warnings


def pair_candidates(folder: Path, request: Request) -> tuple[list[Candidates], list[str]]:
    """The pair sets of ``folder`` alone, and warnings about them. Raises UsageError where there are none."""
    found, left_out = find_pair_sets(folder, request.carray_channels)
    if not found:
        expected = f"{folder}: no pair set here; expected <name>.csv, or <name>/data, <name>/meta, <name>_list.npy"
        raise UsageError("\n".join([expected, *left_out]))
    return _settled([*found], request), left_out


def encoding_in_words(found: list[Candidates], request: Request) -> str:
    """Which encoding each split got, and why."""
    if request.encoding != "auto":
        return f"encoding {request.encoding}: as asked for"
    said = []
    for candidates in (one for one in found if not one.paired):
        limit = "within" if candidates.encoding == "raw" else "above"
        said.append(
            f"{candidates.name} {candidates.encoding} ({_raw(candidates) / 1e9:.3g} GB of pixels, {limit} 8 GB)"
        )
    return "encoding auto: " + ", ".join(said)


def _settled(found: list[Candidates], request: Request) -> list[Candidates]:
    """The same candidates, with the size, encoding and handling of other sizes they will be packed with."""
    names = [candidates.name.removeprefix("pairs-") for candidates in found]
    for name in request.sizes:
        if name.removeprefix("pairs-") not in names:
            raise UsageError(f"--size {name}: no split or pair set is called so; there are {', '.join(names)}")
    carrays = [candidates.name.removeprefix("pairs-") for candidates in found if isinstance(candidates, BcolzPairs)]
    for name in request.carray_channels:
        if name and name not in carrays:
            there = f"there are {', '.join(carrays)}" if carrays else "there is none"
            raise UsageError(f"--carray-channels {name}: no bcolz carray is called so; {there}")
    for candidates in found:
        candidates.size = _size(candidates, request)
        candidates.resize = request.resize
        as_jpeg = request.encoding == "jpeg" or (request.encoding == "auto" and _raw(candidates) > AUTO_RAW_BYTES)
        candidates.encoding = "raw" if not as_jpeg else "jpeg-or-raw" if candidates.paired else "jpeg"
    return found


def _raw(candidates: Candidates) -> int:
    return candidates.count * candidates.size**2 * 3


def _size(candidates: Candidates, request: Request) -> int:
    """The expected side: asked for, fixed by the split's name, or what most of a sample of the pictures have."""
    name = candidates.name.removeprefix("pairs-")
    if isinstance(candidates, BcolzPairs) or candidates.name.startswith("pairs-dev-"):
        return candidates.size
    asked = request.sizes.get(candidates.name, request.sizes.get(name))
    if asked is not None:
        return asked
    if candidates.name in SIZES:
        return SIZES[candidates.name]
    allowed = EVALUATION_SIZES if candidates.name == "highres_eval" else None
    return usual_size(str(candidates.root), candidates.sample(), allowed) or max(EVALUATION_SIZES)


def _warnings(name: str, listing: Listing) -> list[str]:
    warnings = []
    empty = [i for i, n in zip(listing.identities, listing.counts, strict=True) if not n]
    if empty:
        some = ", ".join(map(one_line, empty[:5])) + (", ..." if len(empty) > 5 else "")
        warnings.append(f"{name}: {len(empty)} identities without pictures get no label ({some})")
    warnings += [f"{name}: {line}; they are not packed" for line in listing.left_out.lines(name)]
    return warnings
