"""A split of packed faces: tables that are read and bytes that are mapped at first use, of one file or several."""

import shlex
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.mapped_files import MappedFiles
from hrfr_fast.runtime.errors import DamageFound, UsageError


class Part(NamedTuple):
    """One file of a split that has several, and how many records it holds."""

    path: Path
    samples: int
    tables_digest: str = ""
    """SHA-256 of its tables, "" where that is not known."""


@dataclass(frozen=True)
class Split:
    """N pictures of one resolution in one file or several. Its tables are read, and its bytes mapped, at first use.

    Records are numbered through all files; that there are several shows in ``parts`` alone.
    """

    name: str
    path: Path  # of the file, of the first one where there are several
    size: int  # width and height in pixels
    samples: int
    identities: int
    encoding: str  # "raw", "jpeg" or "mixed"
    identity_names: list[str] = field(repr=False, default_factory=list)
    several: tuple[Part, ...] = field(repr=False, default=())  # the files, where there are more than one
    tables_digest: str = field(repr=False, default="")  # of the file, where there is one; "" where it is not known

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: all but the map, which the workers of a ``DataLoader`` make anew at first use."""
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The file, or the files in the order of their records."""
        return self.several or (Part(self.path, self.samples, self.tables_digest),)

    def where(self, record: int) -> str:
        """File and number of ``record`` for a message, as ``packed/lowres.beton: record 17``."""
        for part in self.parts[:-1]:
            if record < part.samples:
                return f"{part.path}: record {record}"
            record -= part.samples
        return f"{self.parts[-1].path}: record {record}"

    def place(self, record: int) -> tuple[Path, int]:
        """The file of ``record``, and the byte of it where the record begins."""
        at = int(self.offsets[record])
        file = int(np.searchsorted(self._mapped.begins, at, side="right")) - 1
        return self._mapped.paths[file], at - int(self._mapped.begins[file])

    @property
    def advice(self) -> str:
        """Advice on damage in this split, as the end of a sentence."""
        directory = self.path.parent
        return f"`hrfr-fast check {shlex.quote(str(directory))}` lists all damage, {manifest.repair(directory)}"

    @cached_property
    def _mapped(self) -> MappedFiles:
        return MappedFiles([part.path for part in self.parts])

    @property
    def data(self) -> NDArray[np.uint8]:
        """Read-only uint8 memory map of the whole file, or of all files one after the other."""
        return self._mapped.data

    @cached_property
    def _tables(self) -> beton.Tables:
        mapped = self._mapped
        try:
            tables = [
                beton.read_tables(part.path, mapped.data[begin:end], part.tables_digest)
                for part, begin, end in zip(self.parts, mapped.begins.tolist(), mapped.ends.tolist(), strict=True)
            ]
        except DamageFound as error:
            raise DamageFound(f"{error}; {self.advice}") from error
        for part, found in zip(self.parts, tables, strict=True):
            if len(found.offsets) != part.samples or (part.samples and found.size != self.size):
                raise DamageFound(
                    f"{part.path}: {len(found.offsets)} records of {found.size} px,"
                    f" the manifest says {part.samples} of {self.size} px; {self.advice}"
                )
            if part.samples and not 0 <= found.labels.min() <= found.labels.max() < self.identities:
                raise DamageFound(f"{part.path}: a label lies outside 0..{self.identities - 1}; {self.advice}")
        whole = tables[0] if len(tables) == 1 else beton.joined(tables, mapped.begins)
        # Kernels read raw records without a look at their modes, and those of a JPEG reach to where it ends.
        if self.samples and (found_encoding := beton.encoding_of(whole.modes)) != self.encoding:
            raise DamageFound(
                f"{self.path}: its records are {found_encoding}, the manifest says {self.encoding}; {self.advice}"
            )
        return whole

    @property
    def offsets(self) -> NDArray[np.int64]:
        """int64 [N]: byte offset of each record in :attr:`data`."""
        return self._tables.offsets

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [N]: bytes of each record."""
        return self._tables.lengths

    @property
    def modes(self) -> NDArray[np.uint8]:
        """uint8 [N]: ``beton.RAW`` or ``beton.JPEG``."""
        return self._tables.modes

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N], each in 0..identities-1."""
        return self._tables.labels

    @cached_property
    def crc32(self) -> NDArray[np.uint32]:
        """uint32 [N]: CRC-32 of each record's bytes."""
        checksums = [np.fromfile(beton.checksum_path(part.path), "<u4") for part in self.parts]
        for part, found in zip(self.parts, checksums, strict=True):
            if len(found) != part.samples:
                raise DamageFound(
                    f"{beton.checksum_path(part.path)}: {len(found)} checksums, {part.samples} records; {self.advice}"
                )
        return np.concatenate(checksums).astype(np.uint32, copy=False)

    def payload(self, record: int) -> NDArray[np.uint8]:
        """The stored bytes of one record, a view of the mapping."""
        start = int(self.offsets[record])
        return self.data[start : start + int(self.lengths[record])]

    def read(self, records: ArrayLike) -> NDArray[np.uint8]:
        """Decode ``records`` (integers [n]) into uint8 [n, size, size, 3] RGB, 0..255.

        Raises DamageFound naming the record whose JPEG does not decode to the split's size.
        """
        records = np.atleast_1d(np.asarray(records, np.int64))
        out = np.empty((len(records), self.size, self.size, 3), np.uint8)
        for picture, record in zip(out, records.tolist(), strict=True):
            if self.modes[record] == beton.RAW:
                picture.reshape(-1)[:] = self.payload(record)
            else:
                self._decode(record, picture)
        return out

    def _decode(self, record: int, picture: NDArray[np.uint8]) -> None:
        import simplejpeg

        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(self.payload(record))  # 1 us of 9 to 44
            if (height, width) != picture.shape[:2]:
                raise ValueError(f"it is {width}x{height}")
            decoded = simplejpeg.decode_jpeg(self.payload(record), "RGB", strict=True)
        except ValueError as error:
            raise DamageFound(f"{self.where(record)}: {error}; {self.advice}") from error
        picture[:] = decoded

    def verify(self, records: ArrayLike | None = None) -> NDArray[np.int64]:
        """Numbers of those of ``records`` (all by default) whose bytes no longer match their CRC-32."""
        chosen = np.arange(self.samples) if records is None else np.atleast_1d(np.asarray(records, np.int64))
        begins, data = self.offsets[chosen], self.data.view(np.ndarray).data
        ends, expected = begins + self.lengths[chosen], self.crc32[chosen]
        found = [zlib.crc32(data[begin:end]) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        return np.asarray(chosen[np.array(found, np.uint32) != expected])

    def first(self, identities: int) -> "Split":
        """The records of the first ``identities`` of this split, as a split of the same files.

        Raises UsageError where the records do not stand in the order of their identities.
        """
        labels = self.labels
        if (np.diff(labels) < 0).any():
            raise UsageError(
                f"{self.path}: its records are not in the order of identities, as `hrfr-fast pack` writes them"
            )
        chosen = slice(int(np.searchsorted(labels, identities)))
        return self.part(chosen, identities=identities, identity_names=self.identity_names[:identities])

    def part(self, records: slice | NDArray[np.int64], **changed: Any) -> "Split":
        """``records`` of this split, numbered from 0, as a split of the same file; ``changed``: its other fields."""
        whole = self._tables
        cut = {name: getattr(whole, name)[records] for name in ("offsets", "lengths", "modes", "labels")}
        part = replace(self, samples=len(cut["offsets"]), **changed)
        part.__dict__["_tables"] = replace(whole, **cut)  # The cached properties would read these from the file.
        part.__dict__["crc32"] = self.crc32[records]
        return part

    def refuse_shrunk(self) -> None:
        """Raise DamageFound where a file has become shorter since it was mapped; it costs a microsecond a file."""
        self._mapped.refuse_shrunk()

    def free_pages(self) -> None:
        """Give back the memory of the pages read so far; they are read again when they are needed again."""
        self._mapped.free_pages()
