"""The internal form of every test protocol: pictures, and pairs or galleries and probes that number them.

A protocol's file reads its public layout into a ``TestSet``; embedding, scoring and reporting know nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.packing.picture_files import Rejected, read_named

Unit = Literal["picture", "template"]


class PictureSource(Protocol):
    """N encoded pictures that are read one at a time."""

    def __len__(self) -> int:
        """N."""

    def name(self, number: int) -> str:
        """What messages call picture ``number``: its path, or its place in a container."""

    def read(self, number: int) -> bytes:
        """The encoded bytes of picture ``number``. Raises Rejected where there are none."""


@dataclass(frozen=True)
class PictureFiles:
    """Pictures as files below a folder. ``paths``: relative to ``folder``; of names that lead out of it none is read.

    ``folder`` itself may be a link; where its files lead is the user's own affair.
    """

    folder: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        return str(self.folder / self.paths[number])

    def read(self, number: int) -> bytes:
        path = self.paths[number]
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise Rejected("its name leads out of the folder")
        return read_named(str(self.folder / path))


@dataclass(frozen=True)
class PicturesInMemory:
    """Encoded pictures that a container held.

    ``container``: its name, for messages. ``positions``: the place of each in it; None: in its order.
    """

    container: str
    encoded: Sequence[bytes]
    positions: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def name(self, number: int) -> str:
        return f"{self.container}, picture {self.positions[number] if self.positions else number}"

    def read(self, number: int) -> bytes:
        return self.encoded[number]


@dataclass(frozen=True)
class Pictures:
    """N pictures of a protocol and what it says about each; arrays are None where it says nothing.

    Attributes:
        source: the encoded pictures.
        subjects: int64 [N], equal for pictures of one person, -1 where the person is unknown.
        templates: int64 [N], the template that each belongs to, numbered from 0.
        media: int64 [N], the medium (video or still) that each was taken from; None: each from one of its own.
        weights: float64 [N], the weight of each in its template, such as the score of a face detector; None: equal.
        norms_weigh: whether in its template a picture also weighs as much as the norm of its embedding.
        prepare: turns picture ``number``, decoded (uint8 [H, W, 3] RGB), into the face picture that is to be embedded
            (of any size), for protocols that come with landmarks to align by; None: it is a face picture already.
        not_square: what becomes of a face picture that is not square: the whole of it is stretched to the embedder's
            square input, as published evaluations of loose crops do, or its centre square is taken.
    """

    source: PictureSource
    subjects: NDArray[np.int64] | None = None
    templates: NDArray[np.int64] | None = None
    media: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    norms_weigh: bool = False
    prepare: Callable[[int, NDArray[np.uint8]], NDArray[np.uint8]] | None = None
    not_square: Literal["stretch", "centre"] = "stretch"

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class VerificationPairs:
    """P pairs of pictures or of templates.

    Attributes:
        first, second: integers [P], numbers of pictures, or of templates where ``unit`` says so.
        same: bool [P], whether both show one person.
        folds: int64 [P], the protocol's own fold of each pair, 0 ..; None where it has none.
        groups: int64 [P], an index into ``group_names``; None: one group.
        fars: the false accept rates at which true accept rates are reported.
    """

    first: NDArray[np.integer]
    second: NDArray[np.integer]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    group_names: tuple[str, ...] = ()
    unit: Unit = "picture"
    fars: tuple[float, ...] = (1e-1, 1e-2, 1e-3)

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True)
class Identification:
    """A gallery and probes, whose numbers are of pictures, or of templates where ``unit`` says so.

    Attributes:
        name: of this search, unique in its test set ("distance 1", "gallery 1"); "" where there is only one.
        gallery: int64 [G].
        gallery_subjects: int64 [G], -1 for distractors, who are nobody's match.
        probes: int64 [Q].
        probe_subjects: int64 [Q]; a subject that is not in the gallery, or -1: an unmated probe.
        ranks: the ranks at which identification rates are reported.
        fpirs: the false positive identification rates at which true positive ones are reported; none: closed set.
        open_set_rank: how far down the list of candidates the own identity may stand to count as found at an FPIR.
        mean_average_precision: whether it belongs to the protocol.
    """

    name: str
    gallery: NDArray[np.int64]
    gallery_subjects: NDArray[np.int64]
    probes: NDArray[np.int64]
    probe_subjects: NDArray[np.int64]
    unit: Unit = "picture"
    ranks: tuple[int, ...] = (1, 5)
    fpirs: tuple[float, ...] = ()
    open_set_rank: int = 1
    mean_average_precision: bool = False


@dataclass(frozen=True)
class TestSet:
    """One test set of a protocol, read from disk: a ``.bin`` file, all of TinyFace.

    Attributes:
        name: of the set, as tables show it ("lfw", "cfp_fp").
        place: the file or folder it was read from.
        notes: caveats that belong beside every number on it.
    """

    __test__ = False  # it is no class of tests for pytest
    name: str
    place: Path
    pictures: Pictures
    verification: tuple[VerificationPairs, ...] = ()
    identification: tuple[Identification, ...] = ()
    notes: tuple[str, ...] = ()
