"""Discovery of the candidates in a data tree or a folder of pair sets, and the choice of their sizes and encodings."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hrfr_fast.format.names import FACES, PAIR_FOLDER, TRAINING, without_prefix
from hrfr_fast.packing.development_pairs import choose_identities, development_pairs
from hrfr_fast.packing.image_headers import picture_size
from hrfr_fast.packing.pack_settings import PackSettings
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources.bcolz_pairs import BcolzPairs
from hrfr_fast.packing.sources.candidates import Candidates
from hrfr_fast.packing.sources.identity_folders import FolderSource
from hrfr_fast.packing.sources.identity_names import refuse_shared_identities, similar_identities
from hrfr_fast.packing.sources.identity_source import IdentitySource
from hrfr_fast.packing.sources.left_out import outside_splits, split_folders
from hrfr_fast.packing.sources.pair_folder import entries_holding, find_pair_sets, misplaced, picture_folders
from hrfr_fast.packing.sources.source_candidates import SourceCandidates
from hrfr_fast.runtime.errors import UsageError

SIZES = {"lowres": 36, "highres": 144}
FACES_SIZE = 112  # of a set whose pictures have no usual size
EVALUATION_SIZES = (36, 144)
AUTO_RAW_BYTES = 8_000_000_000  # auto: a split larger than this as raw pixels is stored as JPEG


def tree_candidates(data: Path, out: Path, settings: PackSettings) -> tuple[list[Candidates], list[str]]:
    """The splits, development pairs and pair sets of the tree ``data``, and warnings about them.

    Raises:
        UsageError: no split, a misspelt one, one of another layout; an identity in two splits, a broken pair set.
        HrfrError: a folder that cannot be read.
    """
    sources = {name: FolderSource(data / name) for name in split_folders(data)}
    refuse_shared_identities(sources)
    warnings = [line for source in sources.values() for line in source.warnings]
    warnings += similar_identities(sources)
    splits = split_candidates(sources, settings)
    pairs, left_out = find_pair_sets(data / PAIR_FOLDER, settings.carray_channels)
    of_pairs = entries_holding(data, picture_folders(pairs))
    warnings += outside_splits(data, out, of_pairs) + left_out + misplaced(data, PAIR_FOLDER)
    return settled([*splits, *pairs], settings), warnings


def source_candidates(source: IdentitySource, settings: PackSettings) -> tuple[list[Candidates], list[str]]:
    """The split ``faces`` of a set of known people, its development pairs, and warnings about it."""
    warnings = [*source.warnings, *similar_identities({source.root.name: source})]
    return settled(split_candidates({FACES: source}, settings), settings), warnings


def split_candidates(sources: Mapping[str, IdentitySource], settings: PackSettings) -> list[Candidates]:
    """A split of each source, by the split's name, then the development pairs of the training splits."""
    splits: list[Candidates] = []
    development: list[Candidates] = []
    for name, source in sources.items():
        training, size = source, settings.sizes.get(name, SIZES.get(name, 0))
        if name == FACES and not size:
            size = _usual_size(SourceCandidates(name, source), None) or FACES_SIZE
        if settings.dev_identities and name in TRAINING:
            held_out = choose_identities(source, settings.dev_identities, name)
            training = source.select(sorted(set(range(len(source.identities))) - set(held_out)))
            development.append(development_pairs(name, source.select(held_out), size))
        splits.append(SourceCandidates(name, training, size if name == FACES else 0))
    return [*splits, *development]


def pair_candidates(folder: Path, settings: PackSettings) -> tuple[list[Candidates], list[str]]:
    """The pair sets of ``folder`` alone, and warnings about them. Raises UsageError where there are none."""
    found, left_out = find_pair_sets(folder, settings.carray_channels)
    if not found:
        expected = f"{folder}: no pair set here; expected <name>.csv, or <name>/data, <name>/meta, <name>_list.npy"
        raise UsageError("\n".join([expected, *left_out]))
    return settled([*found], settings), left_out


def encoding_in_words(found: list[Candidates], settings: PackSettings) -> str:
    """A sentence on the encoding of each split and the reason for it."""
    if settings.encoding != "auto":
        return f"encoding {settings.encoding}: as asked for"
    choices = []
    for candidates in found:
        if candidates.paired:
            continue
        limit = "within" if candidates.encoding == "raw" else "above"
        choices.append(
            f"{candidates.name} {candidates.encoding} ({candidates.raw_bytes / 1e9:.3g} GB of pixels, {limit} 8 GB)"
        )
    return "encoding auto: " + ", ".join(choices) if choices else ""


def settled(found: list[Candidates], settings: PackSettings) -> list[Candidates]:
    """The same candidates, their size, encoding and treatment of other sizes chosen."""
    names = [without_prefix(candidates.name) for candidates in found]
    for name in settings.sizes:
        if without_prefix(name) not in names:
            raise UsageError(f"--size {name}: no split or pair set is called so; there are {', '.join(names)}")
    carrays = [without_prefix(candidates.name) for candidates in found if isinstance(candidates, BcolzPairs)]
    for name in settings.carray_channels:
        if name and name not in carrays:
            there = f"there are {', '.join(carrays)}" if carrays else "there is none"
            raise UsageError(f"--carray-channels {name}: no bcolz carray is called so; {there}")
    for candidates in found:
        candidates.size = _size(candidates, settings)
        candidates.resize = settings.resize
        as_jpeg = settings.encoding == "jpeg" or (settings.encoding == "auto" and candidates.raw_bytes > AUTO_RAW_BYTES)
        candidates.encoding = "raw" if not as_jpeg else "jpeg-or-raw" if candidates.paired else "jpeg"
    return found


def _size(candidates: Candidates, settings: PackSettings) -> int:
    """The expected size in pixels: known, asked for, fixed by the split's name, or that of most sampled pictures."""
    asked = settings.sizes.get(candidates.name, settings.sizes.get(without_prefix(candidates.name)))
    if candidates.size or asked is not None:
        return candidates.size or asked or 0
    if candidates.name in SIZES:
        return SIZES[candidates.name]
    allowed = EVALUATION_SIZES if candidates.name == "highres_eval" else None
    return _usual_size(candidates, allowed) or max(EVALUATION_SIZES)


def _usual_size(candidates: Candidates, allowed: tuple[int, ...] | None) -> int | None:
    """The size of most square pictures of a sample (the larger in a tie), among ``allowed`` if given; None for none."""
    sizes: Counter[int] = Counter()
    for read in candidates.sample():
        try:
            content = read()
            width, height = picture_size(content) if isinstance(content, bytes) else content.shape[1::-1]
        except Rejected:
            continue
        if width == height and (allowed is None or width in allowed):
            sizes[width] += 1
    return max(sizes, key=lambda size: (sizes[size], size)) if sizes else None
