"""The folder of the pair sets: the sets that are found in it, and warnings about everything else there."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hrfr_fast.format.names import DEVELOPMENT, SPLITS, pair_shard
from hrfr_fast.packing.sources.bcolz_pairs import BcolzPairs
from hrfr_fast.packing.sources.candidates import PairCandidates
from hrfr_fast.packing.sources.labels_out_of_step import pairs_out_of_step
from hrfr_fast.packing.sources.left_out import EXTENSIONS
from hrfr_fast.packing.sources.pair_lists import read_csv
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.names import one_line

LIST = "<name>.csv with path,path,0|1 a line"
CARRAY = "a bcolz carray (<name>/data, <name>/meta and <name>_list.npy)"
MOST = 20  # warnings about single files


def find_pair_sets(folder: Path, channels: Mapping[str, str]) -> tuple[list[PairCandidates], list[str]]:
    """Every pair set of ``folder`` in the order of names, and warnings about what else lies there.

    Args:
        channels: channel order of the bcolz carrays, "bgr" or "rgb", by name; ``""`` stands for all others.

    Raises:
        UsageError: a broken pair set, or two of the same name.
    """
    found: dict[str, PairCandidates] = {}
    if not folder.is_dir():
        return [], []
    for path in _visible(folder):
        name = path.stem if path.is_file() else path.name
        if path.suffix.lower() == ".csv" and path.is_file():
            pairs: PairCandidates = read_csv(pair_shard(name), path)
        elif (path / "meta").is_dir() and (path / "data").is_dir():
            pairs = BcolzPairs(pair_shard(name), path, channels.get(name, channels[""]))
        else:
            continue
        if name.casefold() in map(str.casefold, found) or name.startswith(DEVELOPMENT):
            raise UsageError(f"{path}: the name {name!r} of a pair set is taken; rename one")
        if not re.fullmatch(r"[\w-]+", name):
            raise UsageError(f"{path}: a pair set's name may hold letters, digits, '-' and '_' only; rename it")
        found[name] = pairs
    sets = [found[name] for name in sorted(found)]
    return sets, [*_out_of_step(sets), *left_out(folder, picture_folders(sets))]


def _out_of_step(sets: Sequence[PairCandidates]) -> list[str]:
    """A warning for each list whose labels are one line away from where the folders of its pictures have them."""
    evidence = {pairs.name: pairs_out_of_step(folders, pairs.same) for pairs in sets if (folders := pairs.folders())}
    return [f"{name}: {found}" for name, found in evidence.items() if found]


def picture_folders(sets: Sequence[PairCandidates]) -> set[Path]:
    """The resolved folders that the lists among ``sets`` name pictures in."""
    return {folder for pairs in sets for folder in pairs.folders()}


def left_out(folder: Path, listed: Collection[Path]) -> list[str]:
    """One warning for each entry of ``folder`` that is neither a pair set nor pictures of one.

    Args:
        folder: where the pair sets are.
        listed: resolved folders of the pictures that CSV lists name.
    """
    used, pictures_here = entries_holding(folder, listed), folder.resolve() in listed
    warnings = []
    for path in _visible(folder):
        named = path.name in used or (pictures_here and path.name.lower().endswith(EXTENSIONS))
        if not named and (why := _why(path)):
            warnings.append(f"{one_line(f'{folder.name}/{path.name}')} was left out: {why}")
    more = [f"{folder.name}: {len(warnings) - MOST:,} more files were left out"] if len(warnings) > MOST else []
    return warnings[:MOST] + more


def misplaced(data: Path, folder: str) -> list[str]:
    """One warning for each entry of the tree ``data`` outside ``folder`` that looks like a pair set or holds one."""
    warnings = []
    for path in _visible(data):
        inside = _visible(path) if path.is_dir() and path.name not in (folder, *SPLITS) else []
        if any(map(_like_pairs, [path, *inside])):
            warnings.append(f"{one_line(str(path))} was left out: pair sets are read from {data / folder}")
    return warnings


def _like_pairs(path: Path) -> bool:
    return path.name.endswith("_list.npy") or (path.is_file() and path.name.lower().endswith(".csv"))


def entries_holding(folder: Path, listed: Collection[Path]) -> set[str]:
    """Names of the entries of ``folder`` that hold one of the folders ``listed``."""
    root = folder.resolve()
    return {path.relative_to(root).parts[0] for path in listed if root in path.parents}


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _why(path: Path) -> str:
    """The reason why ``path`` is no pair set; "" where it is one, or the labels of one."""
    name = path.name
    if path.is_dir():
        halves = [half for half in ("data", "meta") if (path / half).is_dir()]
        if len(halves) == 2:
            return ""
        if halves:
            return f"half of a bcolz carray, {'meta' if halves == ['data'] else 'data'}/ is missing"
        return f"neither {CARRAY} nor a folder of pictures that a list names"
    if not path.is_file():
        return "it cannot be read (a dangling link?)"
    if name.lower().endswith(".csv"):
        return ""
    if name.endswith("_list.npy"):
        carray = name.removesuffix("_list.npy")
        whole = (path.parent / carray / "data").is_dir() and (path.parent / carray / "meta").is_dir()
        return "" if whole else f"labels without their carray {carray}/"
    if name.lower().endswith(".bin"):
        return "InsightFace's .bin is no pair set to pack; `hrfr-fast evaluate RUN FILE.bin` tests a model on it"
    if name.lower().endswith(".txt"):
        return f"lists of pairs are read as {LIST}; `hrfr-fast evaluate RUN FOLDER` reads LFW's own layout"
    return f"not a pair set: neither {LIST} nor {CARRAY}"
