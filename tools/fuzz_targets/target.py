"""What a fuzzing target is: a parser of one kind of file, files that it takes, and what it may raise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.runtime.errors import HrfrError

ALLOWED = (HrfrError, Rejected)
"""What a parser may raise over a bad file: the project's own errors, each with a message for the user."""


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: as ``tools/fuzz.py`` and the folder of its cases call it.
        parse: takes the content of the file and an existing folder for it; raises what the parser raises.
        seeds: given a folder, good files of this kind, at least one.
    """

    name: str
    parse: Callable[[bytes, Path], object]
    seeds: Callable[[Path], Sequence[bytes]]

    def accepts(self, content: bytes, folder: Path) -> bool:
        """Whether the parser takes ``content``; False where it refuses it in words. Raises what must not be raised."""
        try:
            self.parse(content, folder)
        except ALLOWED:
            return False
        return True


def written(folder: Path, name: str, content: bytes) -> Path:
    """A file with that content, in place of an earlier one."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
