"""What lies where pair sets are looked for and is none: named with the reason, since nothing else would tell."""

from collections.abc import Collection
from pathlib import Path

from hrfr_fast.format import manifest
from hrfr_fast.packing.left_out import EXTENSIONS
from hrfr_fast.runtime.names import one_line

LIST = "<name>.csv with path,path,0|1 a line"
CARRAY = "a bcolz carray (<name>/data, <name>/meta and <name>_list.npy)"
MOST = 20  # files named one by one


def left_out(folder: Path, listed: Collection[Path]) -> list[str]:
    """One warning for each entry of ``folder`` that is neither a pair set nor pictures of one.

    Args:
        folder: where the pair sets are.
        listed: resolved folders of the pictures that CSV lists name.
    """
    used, pictures_here = entries_on_the_way(folder, listed), folder.resolve() in listed
    found = []
    for path in _visible(folder):
        named = path.name in used or (pictures_here and path.name.lower().endswith(EXTENSIONS))
        if not named and (why := _why(path)):
            found.append(f"{one_line(f'{folder.name}/{path.name}')} was left out: {why}")
    more = [f"{folder.name}: {len(found) - MOST:,} more files were left out"] if len(found) > MOST else []
    return found[:MOST] + more


def misplaced(data: Path, folder: str) -> list[str]:
    """One warning for each entry of the tree ``data`` outside ``folder`` that looks like a pair set or holds one."""
    warnings = []
    for path in _visible(data):
        inside = _visible(path) if path.is_dir() and path.name not in (folder, *manifest.SPLITS) else []
        if any(map(_like_pairs, [path, *inside])):
            warnings.append(f"{one_line(str(path))} was left out: pair sets are read from {data / folder}")
    return warnings


def _like_pairs(path: Path) -> bool:
    return path.name.endswith("_list.npy") or (path.is_file() and path.name.lower().endswith(".csv"))


def entries_on_the_way(folder: Path, listed: Collection[Path]) -> set[str]:
    """Names of the entries of ``folder`` in which one of ``listed`` lies."""
    root = folder.resolve()
    return {one.relative_to(root).parts[0] for one in listed if root in one.parents}


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
        return f"InsightFace's .bin is not read; write its pictures as files and {LIST}, or as {CARRAY}"
    if name.lower().endswith(".txt"):
        return f"lists of pairs are read as {LIST}"
    return f"not a pair set: neither {LIST} nor {CARRAY}"
