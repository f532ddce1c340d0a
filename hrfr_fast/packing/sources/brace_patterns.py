"""Names with braces, as WebDataset users write the shards of a set: ``train-{000000..000123}.tar``."""

import math
import re

from hrfr_fast.runtime.errors import UsageError

MOST_NAMES = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def has_braces(text: str) -> bool:
    """Whether ``text`` has a pair of braces with a comma or two dots."""
    return any("," in found or ".." in found for found in _BRACES.findall(text))


def expand(pattern: str) -> list[str]:
    """All names that ``pattern`` stands for, in its order: ``{a,b}`` and ``{08..11}``, whose width is kept.

    Raises UsageError where it stands for too many.
    """
    if math.prod(len(_choices(found)) for found in _BRACES.findall(pattern)) > MOST_NAMES:
        raise UsageError(f"{pattern}: it stands for more than {MOST_NAMES:,} files")
    names = [pattern]
    while any(map(_BRACES.search, names)):
        expanded = []
        for name in names:
            found = _BRACES.search(name)
            choices = _choices(found.group(1)) if found else [""]
            head, tail = (name[: found.start()], name[found.end() :]) if found else (name, "")
            expanded += [head + choice + tail for choice in choices]
            if len(expanded) > MOST_NAMES:
                raise UsageError(f"{pattern}: it stands for more than {MOST_NAMES:,} files")
        names = expanded
    return names


def _choices(text: str) -> list[str]:
    found = _RANGE.fullmatch(text)
    if not found:
        return text.split(",")
    first, last = int(found.group(1)), int(found.group(2))
    if abs(last - first) >= MOST_NAMES:
        raise UsageError(f"{{{text}}}: it stands for more than {MOST_NAMES:,} files")
    width = max(map(len, found.groups())) if any(end.startswith("0") and len(end) > 1 for end in found.groups()) else 0
    step = 1 if first <= last else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]
