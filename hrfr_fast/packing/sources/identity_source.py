"""What every format of a set of known people is read into: pictures in a fixed order, each with an identity."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.chunks import Reader
from hrfr_fast.packing.sources.candidates import digest_of_text


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about a source beside its path; each format takes what concerns it."""

    root: Path | None = None
    """Folder that the paths of a list are relative to; None: the list's own folder."""
    show_progress: bool = False
    """Whether a bar shows how far the listing of a large file is."""


NO_OPTIONS = SourceOptions()


class IdentitySource(ABC):
    """Pictures of known people.

    To add a format, write a subclass in a file of its own and name it in ``formats.py``. It must hold:

    - The order of the pictures and the numbers of the identities are a function of the files alone, whatever the
      machine: names are sorted, nothing depends on the order in which a file system lists a folder.
    - Memory: about 50 bytes a picture, in NumPy arrays or in one bytes object, and no Python object a picture: a set
      has millions of them. Pictures themselves are read when a reader is called.
    - Nothing in a file is trusted. Sizes, counts and offsets are compared with the file before memory is taken for
      them; nothing is unpickled; a path in a file is checked before it is opened.
    - Readers (see ``Reader`` in ``packing/chunks.py``) are picklable and are called in worker processes.
    - A picture that cannot be used is a matter of its reader, which raises Rejected: the others are packed. A file that
      cannot be understood at all is a UsageError of the constructor that names the file, and the record or line.

    Attributes:
        format: value of ``--format``.
        title: the format in words with its article, "an InsightFace record file".
        in_files: whether each picture is a file of its own whose path, relative to ``root``, is its name.
        root: the folder that names are relative to.
        identities: name of each identity by its number. A format with labels instead of names keeps the original label
            as the name. An identity may be without pictures; it gets no label in the pack.
        labels: integers [N], the identity of each picture, 0 <= label < len(identities), ascending: readers take the
            first identities of a split by its first records.
        fingerprint: digest of all that decides the pictures and their order, modification times of files included.
        content: the same without modification times, which a copy elsewhere may not keep.
        bytes_on_disk: of the pictures, roughly; for the estimate of the space that packing takes.
        warnings: what is left out and why, a sentence each, without its full stop.
    """

    format: ClassVar[str]
    title: ClassVar[str]
    in_files: bool = False
    root: Path
    identities: Sequence[str]
    labels: NDArray[np.integer]
    fingerprint: str
    content: str
    bytes_on_disk: int = 0
    warnings: Sequence[str] = ()

    @abstractmethod
    def __init__(self, path: Path, options: SourceOptions) -> None:
        """Read what is needed to know the pictures, and none of them.

        Raises:
            UsageError: the file is not of this format, or broken as a whole; says where.
            HrfrError: something cannot be read.
        """

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` looks like this format. Looks at a few names and bytes only, and never raises."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def names(self, indices: Sequence[int]) -> list[str]:
        """Where the pictures lie, as messages and ``quarantine.jsonl`` say it: a path, or ``train.rec[17]``."""

    @abstractmethod
    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        """One reader for each of the pictures ``indices``."""

    @abstractmethod
    def listing_lines(self) -> Iterator[str]:
        """One line a file: its name, a tab, and what shows that it changed (size and modification time).

        The next pack compares them to say how many files were added, removed and changed.
        """

    def read(self, index: int) -> "bytes | NDArray[np.uint8]":
        """One picture, as its reader returns it. Raises Rejected."""
        return self.readers([index])[0]()

    def select(self, identities: Sequence[int]) -> "IdentitySource":
        """The same source with some identities alone, given by ascending number; they are numbered from 0 again."""
        return Selection(self, identities)


class Selection(IdentitySource):
    """Some identities of a source. ``indices``: int64 [n], the numbers of their pictures in it."""

    def __init__(self, source: IdentitySource, identities: Sequence[int]) -> None:
        number = np.full(len(source.identities), -1, np.int64)
        number[np.asarray(identities, np.int64)] = np.arange(len(identities))
        labels = number[source.labels]
        self.indices = np.flatnonzero(labels >= 0)
        self.labels = labels[self.indices].astype(source.labels.dtype)
        self.source, self.root = source, source.root
        self.identities = [source.identities[identity] for identity in identities]
        chosen = "\n".join(self.identities)
        self.fingerprint = digest_of_text(f"{source.fingerprint}\n{chosen}")
        self.content = digest_of_text(f"{source.content}\n{chosen}")
        self.bytes_on_disk = source.bytes_on_disk * len(self.indices) // max(1, len(source))
        self.in_files = source.in_files

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return False

    def names(self, indices: Sequence[int]) -> list[str]:
        return self.source.names(self.indices[np.asarray(indices, np.int64)].tolist())

    def readers(self, indices: Sequence[int]) -> Sequence[Reader]:
        return self.source.readers(self.indices[np.asarray(indices, np.int64)].tolist())

    def listing_lines(self) -> Iterator[str]:
        return self.source.listing_lines()
